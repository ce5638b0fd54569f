//! `serve`: the weights are loaded once, then any number of cases are run, each when the platform asks for it.

use super::args::{CaseArgs, ServeArgs};
use super::case::Reading;
use super::{case, exit, interrupt, memory};
use anyhow::{Context, anyhow};
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Answer, Request, Server};
use pdac_cascade::pipeline::PanoramaRun;
use pdac_cascade::pipeline::panorama::{ExecutionOptions, KeptFolds};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long answers that are under way may take when the server is to end.
const GRACE: Duration = Duration::from_millis(500);

/// Serves until a signal comes.
pub fn serve(args: &ServeArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    let (server, requests) = Server::new();
    let stopping = server.clone();
    interrupt::listen(0, move || stopping.stop());
    let address = SocketAddr::from((args.host, args.port));
    let listener = TcpListener::bind(address).with_context(|| format!("{address}: cannot be listened on"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    case::start_threads(&args.case.compute)?;
    let options = case::execution_options(&args.case.compute)?;
    let http = thread::Builder::new().spawn({
        let server = server.clone();
        move || server.serve(listener)
    })?;
    let worked = work(&args.case, options, &server, &requests, bars);
    server.stop();
    let served = joined(http);
    if interrupt::requested() {
        tracing::info!("told to end");
        return Ok(());
    }
    worked.and(served)
}

/// What became of the HTTP server; one that still waits for a client after [`GRACE`] is left to itself.
fn joined(http: JoinHandle<io::Result<()>>) -> anyhow::Result<()> {
    let asked = Instant::now();
    while !http.is_finished() {
        if asked.elapsed() > GRACE {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(http.join().map_err(|_| anyhow!("the HTTP server's thread died"))??)
}

/// Gets ready, then runs cases until the server has ended.
fn work(
    args: &CaseArgs,
    options: ExecutionOptions,
    server: &Server,
    requests: &Receiver<Request>,
    bars: &MultiProgress,
) -> anyhow::Result<()> {
    let cascade = case::open_cascade(&args.compute)?;
    let cascade = cascade.begin(options);
    let KeptFolds { kept, all } = cascade.get_ready()?;
    server.ready();
    tracing::info!(kept_folds = kept, folds = all, "ready");
    while let Ok(request) = requests.recv() {
        request.answer(answer(&cascade, args, bars));
    }
    Ok(())
}

/// Runs a case; whatever happens to it, the next can be run.
fn answer(cascade: &PanoramaRun<'_>, args: &CaseArgs, bars: &MultiProgress) -> Answer {
    let run = || exit::caught(|| run(cascade, args, bars));
    let mut done = run();
    if done.as_ref().is_err_and(|error| exit::code(error) == exit::MEMORY) && cascade.release_weights() {
        tracing::warn!("not enough memory beside the weights: trying again without keeping them");
        memory::return_heap();
        done = run();
    }
    let Err(error) = done else { return Answer::Complete };
    let message = exit::message(&error);
    tracing::error!("{message}");
    match exit::code(&error) {
        exit::INPUT => Answer::Refused(message),
        exit::INTERRUPTED => Answer::Interrupted,
        _ => Answer::Failed(message),
    }
}

fn run(cascade: &PanoramaRun<'_>, args: &CaseArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    let progress = case::begin(bars);
    let (case, outputs) = case::find_case(args)?;
    case::run_case(cascade, Reading::later(&case), &outputs, None, &progress)
}

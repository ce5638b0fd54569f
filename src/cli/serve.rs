//! `serve`: the weights are loaded once, then any number of cases are run, each when the platform asks for it.

use super::args::{CaseArgs, ServeArgs};
use super::{case, exit, interrupt};
use anyhow::{Context, anyhow};
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Answer, Request, Server};
use pdac_cascade::pipeline::PanoramaRun;
use pdac_cascade::pipeline::panorama::{ExecutionOptions, KeptFolds};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::thread;

/// Serves until a signal comes.
pub fn serve(args: &ServeArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    let (server, requests) = Server::new();
    let stopping = server.clone();
    interrupt::listen(0, move || stopping.stop());
    let address = SocketAddr::from((args.host, args.port));
    let listener = TcpListener::bind(address).with_context(|| format!("{address}: cannot be listened on"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let options = case::execution_options(&args.case)?;
    thread::scope(|scope| {
        let http = scope.spawn(|| server.serve(listener));
        let worked = work(&args.case, options, &server, &requests, bars);
        server.stop();
        let served = http.join().map_err(|_| anyhow!("the HTTP server's thread died"))?;
        if interrupt::requested() {
            tracing::info!("told to end");
            return Ok(());
        }
        worked?;
        Ok(served?)
    })
}

/// Gets ready, then runs cases until the server has ended.
fn work(
    args: &CaseArgs,
    options: ExecutionOptions,
    server: &Server,
    requests: &Receiver<Request>,
    bars: &MultiProgress,
) -> anyhow::Result<()> {
    let cascade = case::open_cascade(args)?;
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
    let mut done = run(cascade, args, bars);
    if done.as_ref().is_err_and(|error| exit::code(error) == exit::MEMORY) && cascade.release_weights() {
        tracing::warn!("not enough memory beside the weights: trying again without keeping them");
        done = run(cascade, args, bars);
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
    let run = || {
        let progress = case::begin(bars);
        let (case, outputs) = case::find_case(args)?;
        case::run_case(cascade, &case, &outputs, None, &progress)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(anyhow!("internal error: {text}"))
    })
}

//! `serve`: the weights are loaded once, then any number of cases are run, each when the platform asks for it.

use super::args::{CaseArgs, ServeArgs};
use super::case::Reading;
use super::weights::WeightsFolder;
use super::{case, exit, interrupt, memory};
use anyhow::{Context, anyhow};
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Answer, Interface, Request, Server};
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::pipeline::{ExecutionOptions, KeptFolds, PipelineError, SystemRun, half_of_memory};
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
    let weights = WeightsFolder::find(&args.compute.weights)?;
    let opened = match args.task.map(Interface::from) {
        Some(task) => vec![(task, weights.open(&task)?)],
        None => weights.open_all()?.into_iter().map(|(task, _, system)| (task, system)).collect(),
    };
    let runs = opened.iter().map(|(task, system)| (*task, system.begin(options))).collect();
    let systems = Systems { runs, options };
    let KeptFolds { kept, all } = systems.get_ready()?;
    server.ready();
    tracing::info!(kept_folds = kept, folds = all, "ready");
    while let Ok(request) = requests.recv() {
        request.answer(answer(&systems, args, bars));
        // A GPU that is lost stays lost as long as the process lives.
        if let Some(gpu) = options.gpu {
            gpu.synchronise().map_err(PredictError::from).map_err(PipelineError::from)?;
        }
    }
    Ok(())
}

/// The systems of all tasks that there are weights for.
struct Systems<'c> {
    runs: Vec<(Interface, SystemRun<'c>)>,
    options: ExecutionOptions,
}

impl Systems<'_> {
    /// Keeps as many weights as leave half of the memory available, then runs each network once.
    fn get_ready(&self) -> Result<KeptFolds, PipelineError> {
        let reserve = half_of_memory(self.options)?;
        let mut folds = KeptFolds::default();
        for (_, run) in &self.runs {
            let KeptFolds { kept, all } = run.keep_weights(reserve)?;
            folds = KeptFolds { kept: folds.kept + kept, all: folds.all + all };
        }
        let warm_up = || self.runs.iter().try_for_each(|(_, run)| run.warm_up());
        match warm_up() {
            Err(PipelineError::Predict(PredictError::Memory(_))) if self.release_weights() => {
                folds.kept = 0;
                warm_up()?;
            }
            done => done?,
        }
        Ok(folds)
    }

    /// Lets go the weights that are kept: whether there were any.
    fn release_weights(&self) -> bool {
        self.runs.iter().filter(|(_, run)| run.release_weights()).count() > 0
    }

    fn of(&self, task: &Interface) -> anyhow::Result<&SystemRun<'_>> {
        let found = self.runs.iter().find(|(interface, _)| interface == task);
        let ready: Vec<&str> = self.runs.iter().map(|(interface, _)| interface.name).collect();
        let missing = || NoWeights { task: task.name, ready: ready.join(", ") };
        Ok(found.map(|(_, run)| run).ok_or_else(missing)?)
    }
}

/// A case of a task that the server has no weights for.
#[derive(Debug, thiserror::Error)]
#[error("this server has no weights for {task}, only for {ready}")]
struct NoWeights {
    task: &'static str,
    ready: String,
}

/// Runs a case; whatever happens to it, the next can be run.
fn answer(systems: &Systems<'_>, args: &CaseArgs, bars: &MultiProgress) -> Answer {
    let run = || exit::caught(|| run(systems, args, bars));
    let mut done = run();
    if done.as_ref().is_err_and(|error| exit::code(error) == exit::MEMORY) && systems.release_weights() {
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

fn run(systems: &Systems<'_>, args: &CaseArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    let progress = case::begin(args, bars);
    let (task, case, outputs) = case::find_case(args)?;
    let system = systems.of(&task)?;
    case::run_case(system, systems.options, Reading::later(&case), &outputs, None, &progress)
}

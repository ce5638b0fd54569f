//! The command line: arguments, logging, progress and exit codes.

mod args;
mod exit;
mod inspect;
mod interrupt;
mod logging;
mod memory;
mod progress;
mod run;
mod system;
mod weights;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// Parses the arguments, runs the command and turns its error into an exit code.
pub fn main() -> ExitCode {
    memory::return_what_is_freed();
    let Cli { command, run } = Cli::parse();
    let command = command.unwrap_or(Command::Run(run));
    let bars = logging::start(command.log(), command.quiet());
    let done = match command {
        Command::Run(args) => run::run(&args, &bars),
        Command::Inspect(args) => inspect::inspect(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", exit::message(&error));
            ExitCode::from(exit::code(&error))
        }
    }
}

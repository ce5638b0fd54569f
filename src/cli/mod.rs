//! The command line: arguments, logging, progress and exit codes.

mod args;
mod case;
mod device;
mod evaluate;
mod exit;
mod inspect;
mod interrupt;
mod logging;
mod memory;
mod phantom;
mod progress;
mod run;
mod self_check;
mod serve;
mod system;
mod validate;
mod weights;

use args::{API_METHOD, Cli, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use logging::Informative;
use std::process::ExitCode;

/// Parses the arguments, runs the command and turns its error into an exit code.
pub fn main() -> ExitCode {
    memory::return_what_is_freed();
    let api_method = std::env::var_os(API_METHOD).map(|value| value.to_string_lossy().into_owned());
    let command = Cli::parse()
        .into_command(api_method.as_deref())
        .unwrap_or_else(|error| Cli::command().error(ErrorKind::ValueValidation, error).exit());
    let informative = if api_method.is_some() && command.is_for_platform() {
        Informative::Stdout
    } else {
        Informative::Stderr
    };
    let bars = logging::start(command.log(), command.quiet(), informative);
    let done = exit::caught(|| match command {
        Command::Run(args) => run::run(&args, &bars),
        Command::Serve(args) => serve::serve(&args, &bars),
        Command::Validate(args) => validate::validate(&args),
        Command::SelfCheck(args) => self_check::self_check(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Evaluate(args) => evaluate::evaluate(&args),
        Command::Phantom(args) => phantom::phantom(&args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", exit::message(&error));
            ExitCode::from(exit::code(&error))
        }
    }
}

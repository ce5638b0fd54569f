//! The platform's contract: where a case's files lie under the input folder, where its outputs go, what they must be,
//! and the HTTP interface through which the platform may ask for cases.

mod case;
mod clinical;
mod interface;
mod outputs;
mod server;
mod small_file;
mod sockets;
mod validation;

pub use case::{Case, CaseError, task_of};
pub use clinical::{Age, ClinicalError, ClinicalInformation, Sex};
pub use interface::{
    DETECTION_MAP, INTERFACES, Interface, LIKELIHOOD, OutputForm, PANORAMA, PANTHER_T1, PANTHER_T2, Socket,
};
pub use outputs::{OutputError, Outputs, REPORT, Results};
pub use server::{Answer, Request, Server};
pub use sockets::{Located, SocketError, locate};
pub use validation::{Apart, Checked, Finding, compare, task_of_outputs, validate};

use std::path::Path;

/// Most names that a message lists: log lines that grow without bound break the platform's wrapper.
const MOST_NAMES: usize = 8;

/// Names with commas between them, cut short where there are many.
fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(MOST_NAMES)].join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The last part of a path as text.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

//! The software device, and children of the tests that run on it.
//!
//! Libraries are searched where `LD_LIBRARY_PATH` says when a process starts, and what breaks a device breaks it for the whole
//! process: so every test runs a child. It is the program, or for tests of the library this very binary with the name of an
//! inner test, which is ignored otherwise.

use assert_cmd::Command;
use pdac_cascade::ops::{Cuda, CudaOptions, CudaPrecision};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Longer than any child takes.
const FOREVER: Duration = Duration::from_secs(1200);
/// The software device's exit code where memory beside an allocation was written to.
const BROKEN_GUARD: i32 = 99;

/// The folder with the software device, built once.
pub fn software_device() -> &'static Path {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(build) {
        Ok(folder) => folder,
        Err(reason) => panic!("{reason}"),
    }
}

fn build() -> Result<PathBuf, String> {
    if std::env::var_os("CUDA_HOME").is_none() {
        return Err(
            "CUDA_HOME is not set: run these tests by scripts/build_cuda.sh, which sets it".to_owned()
        );
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("software_device");
    // One build at a time, also of several processes.
    let lock = fs::File::create(folder.with_extension("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let script = Path::new(ROOT).join("tests/software_device/build.sh");
    let built = Command::new("bash").arg(script).arg(&folder).output().map_err(|e| e.to_string())?;
    let log = String::from_utf8_lossy(&built.stderr);
    if built.status.success() { Ok(folder) } else { Err(format!("the software device: {log}")) }
}

/// A folder with links to the software device's libraries but for the one of this name in any version.
pub fn without_library(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut left_out = 0;
    for file in fs::read_dir(software_device()).unwrap().map(|e| e.unwrap().path()) {
        let file_name = file.file_name().unwrap().to_str().unwrap();
        if file_name.starts_with(&format!("{name}.so")) {
            left_out += 1;
        } else if file.is_file() {
            std::os::unix::fs::symlink(fs::canonicalize(&file).unwrap(), folder.path().join(file_name))
                .unwrap();
        }
    }
    assert!(left_out > 0, "there is no {name} to leave out");
    folder
}

/// A cache that all children share: what cuDNN's algorithms take is not measured again by each.
fn shared_cache() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_test_cache");
        // Of an earlier run, if any.
        let _none = fs::remove_dir_all(&folder);
        folder
    })
}

/// How a child ended.
pub struct Ended {
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub log: String,
    /// What it wrote to standard output.
    pub out: String,
}

impl Ended {
    /// Lines of the log with this text.
    pub fn lines<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.log.lines().filter(move |line| line.contains(text))
    }

    /// Whether any line of the log has this text.
    pub fn says(&self, text: &str) -> bool {
        self.log.contains(text)
    }

    /// Asserts that it ended well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// Asserts that it ended with this code.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.log, self.out);
        self
    }

    /// Asserts that the log has each of these texts.
    #[track_caller]
    pub fn said(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.says(text), "{text:?} is not in:\n{}", self.log);
        }
        self
    }

    /// Asserts that the log has none of these texts.
    #[track_caller]
    pub fn did_not_say(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(!self.says(text), "{text:?} is in:\n{}", self.log);
        }
        self
    }
}

/// A child about to run.
pub struct Child(Command);

impl Child {
    /// The program with these arguments.
    pub fn program(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pdac-cascade"));
        command.args(arguments);
        Self(command).prepared()
    }

    /// The inner test of this name, of this binary.
    pub fn inner(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        Self(command).prepared()
    }

    fn prepared(mut self) -> Self {
        self.0
            .current_dir(ROOT)
            .env("LD_LIBRARY_PATH", software_device())
            .env("XDG_CACHE_HOME", shared_cache());
        self.0.env_remove("PDAC_SOFTWARE_DEVICE").env_remove("PDAC_CASCADE_API_METHOD").timeout(FOREVER);
        self
    }

    /// On a software device with these settings.
    pub fn device(mut self, settings: &str) -> Self {
        self.0.env("PDAC_SOFTWARE_DEVICE", settings);
        self
    }

    /// With the libraries of this folder.
    pub fn libraries(self, folder: impl AsRef<Path>) -> Self {
        self.with("LD_LIBRARY_PATH", folder.as_ref())
    }

    /// With this variable.
    pub fn with(mut self, variable: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(variable, value);
        self
    }

    /// Without this variable.
    pub fn without(mut self, variable: &str) -> Self {
        self.0.env_remove(variable);
        self
    }

    /// With these folders.
    pub fn folders(mut self, input: &Path, output: &Path) -> Self {
        self.0.arg("--input").arg(input).arg("--output").arg(output);
        self
    }

    /// An inner test that takes algorithms from the children before it.
    pub fn remembering(self) -> Self {
        self.with("PDAC_TEST_REMEMBER", shared_cache().join("of_library.json"))
    }

    /// The command, to be started by the caller.
    pub fn into_command(self) -> std::process::Command {
        let mut command = std::process::Command::new(self.0.get_program());
        command.args(self.0.get_args());
        for (variable, value) in self.0.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.current_dir(ROOT);
        command
    }

    /// Runs it to its end; no memory may have been written to that is none of its own.
    #[track_caller]
    pub fn run(mut self) -> Ended {
        let done = self.0.output().unwrap();
        let [log, out] = [done.stderr, done.stdout].map(|text| String::from_utf8_lossy(&text).into_owned());
        let ended = Ended { code: done.status.code(), log, out };
        assert_ne!(ended.code, Some(BROKEN_GUARD), "{}", ended.log);
        ended.did_not_say(&["was overwritten", "after it was freed", "is not an allocation"])
    }

    /// Runs an inner test; what it measured is shown.
    #[track_caller]
    pub fn passes(self) -> Ended {
        let ended = self.run().succeeded();
        assert!(ended.out.contains("test result: ok. 1 passed"), "no such inner test:\n{}", ended.out);
        ended
    }
}

/// Shows what a child said about what it measured.
pub fn show_measured(ended: &Ended) {
    for line in ended.lines("measured:") {
        eprintln!("{line}");
    }
}

/// The software device in the precision that the environment names.
pub fn open_gpu() -> Cuda {
    let half = std::env::var("PDAC_TEST_PRECISION").unwrap() == "f16";
    let precision = if half { CudaPrecision::F16 } else { CudaPrecision::F32 };
    let remember = std::env::var_os("PDAC_TEST_REMEMBER").map(PathBuf::from);
    Cuda::open(0, CudaOptions { precision, remember }).unwrap()
}

//! `serve` as the platform meets it: started once, asked for cases, told to end.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pdac_cascade::imaging::file::{Compression, read_image, write_image};
use pdac_cascade::imaging::{Geometry, Volume};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MAP: &str = "images/pdac-detection-map";
const PHANTOM: &str = "phantom-venous-ct.mha";
/// Within this time the platform's signal must have been followed.
const END: Duration = Duration::from_secs(2);
/// Longer than anything here takes.
const FOREVER: Duration = Duration::from_secs(60);

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("pdac-cascade"));
    command.current_dir(ROOT).stderr(Stdio::piped());
    command
}

/// Input and output folder; the input is reached through a symbolic link.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: TempDir::new().unwrap() };
        fs::create_dir_all(desk.path("case/images/venous-ct")).unwrap();
        std::os::unix::fs::symlink("case", desk.path("in")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the input by this one image.
    fn put(&self, name: &str, bytes: &[u8]) {
        let images = self.path("case/images/venous-ct");
        fs::remove_dir_all(&images).unwrap();
        fs::create_dir_all(&images).unwrap();
        fs::write(images.join(name), bytes).unwrap();
    }

    fn put_phantom(&self, name: &str) {
        self.put(name, &fs::read(Path::new(ROOT).join("test_input/images/venous-ct").join(PHANTOM)).unwrap());
    }

    /// Fat and muscle without a pancreas: a case of a moment.
    fn put_dull(&self, name: &str, shape: [usize; 3], spacing: [f64; 3]) {
        let data = ndarray::Array3::from_shape_fn(shape, |(z, y, x)| [50_i16, -100][(z + y + x) % 2]);
        let file = self.path("dull.mha");
        write_image(&file, &Volume::new(data, Geometry::axis_aligned(shape, spacing)), Compression::None)
            .unwrap();
        self.put(name, &fs::read(file).unwrap());
    }

    /// A case of hundreds of low-resolution tiles.
    fn put_long(&self, name: &str) {
        self.put_dull(name, [200, 256, 256], [9.0, 4.5, 4.5]);
    }

    fn outputs(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in ["out", &format!("out/{MAP}")] {
            let entries = fs::read_dir(self.path(folder)).into_iter().flatten().map(|e| e.unwrap().path());
            names.extend(
                entries.filter(|p| p.is_file()).map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()),
            );
        }
        names.sort();
        names
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--input").arg(self.path("in")).arg("--output").arg(self.path("out"));
        command
    }
}

/// A running server.
struct Serving {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let address = first.trim().strip_prefix("INFO listening address=").map(str::to_owned);
        let Some(address) = address else { panic!("expected the address, got {first:?}") };
        let log = Arc::new(Mutex::new(first));
        let written = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in lines.lines() {
                *written.lock().unwrap() += &(line.unwrap() + "\n");
            }
        });
        Self { child, address, log, reader }
    }

    fn of(desk: &Desk) -> Self {
        Self::start(desk.command(&["serve", "--host", "127.0.0.1", "--port", "0", "--threads", "2"]))
    }

    /// Status and body of an answer.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
        (text[9..12].parse().unwrap(), body)
    }

    fn wait_until_healthy(&self) {
        let started = Instant::now();
        while self.ask("GET /health").0 != 200 {
            assert!(started.elapsed() < FOREVER, "not healthy");
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the log holds `words`.
    fn wait_until_said(&self, words: &str) {
        let started = Instant::now();
        while !self.log.lock().unwrap().contains(words) {
            assert!(started.elapsed() < FOREVER, "did not say {words}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGTERM; exit code, log, and how long the end took.
    fn end(mut self) -> (Option<i32>, String, Duration) {
        let took = terminate(&mut self.child);
        self.reader.join().unwrap();
        let log = self.log.lock().unwrap().clone();
        (self.child.wait().unwrap().code(), log, took)
    }
}

/// Sends SIGTERM and waits for the end.
fn terminate(child: &mut Child) -> Duration {
    let started = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < FOREVER, "the process does not end");
        sleep(Duration::from_millis(5));
    }
    started.elapsed()
}

#[test]
fn cases_come_one_after_the_other_and_are_those_of_run() {
    let desk = Desk::new();
    desk.put_phantom(PHANTOM);
    let once = desk.command(&["run", "--quiet", "--threads", "2"]).output().unwrap();
    assert!(once.status.success());
    let map = read_image(&desk.path("out").join(MAP).join(PHANTOM)).unwrap();
    let likelihood = fs::read(desk.path("out/pdac-likelihood.json")).unwrap();

    let serving = Serving::of(&desk);
    serving.wait_until_healthy();
    assert_eq!(serving.ask("POST /invoke"), (201, "outputs written\n".to_owned()));
    assert_eq!(desk.outputs(), ["pdac-likelihood.json", PHANTOM, "run-report.json"]);

    desk.put("ruined.mha", b"nothing");
    let (status, reason) = serving.ask("POST /invoke");
    assert_eq!(status, 422, "{reason}");
    assert!(reason.contains("in/images/venous-ct/ruined.mha: ") && reason.lines().count() == 1, "{reason}");
    assert_eq!(desk.outputs(), [""; 0], "nothing of the case before");

    // The platform empties the output folder between cases.
    fs::remove_dir_all(desk.path("out")).unwrap();
    desk.put_phantom("second.mha");
    assert_eq!(serving.ask("POST /invoke").0, 201);
    assert_eq!(desk.outputs(), ["pdac-likelihood.json", "run-report.json", "second.mha"]);
    assert_eq!(read_image(&desk.path("out").join(MAP).join("second.mha")).unwrap(), map);
    assert_eq!(fs::read(desk.path("out/pdac-likelihood.json")).unwrap(), likelihood);

    desk.put_dull("third.mha", [4, 20, 22], [9.0, 4.5, 4.5]);
    assert_eq!(serving.ask("POST /invoke").0, 201);
    assert_eq!(desk.outputs(), ["pdac-likelihood.json", "run-report.json", "third.mha"]);

    // Another task; nothing of the one before stays.
    let (images, mri) = (desk.path("case/images"), "abdominal-t2-mri/phantom-t2-mri.mha");
    fs::remove_dir_all(images.join("venous-ct")).unwrap();
    fs::create_dir(images.join("abdominal-t2-mri")).unwrap();
    fs::copy(Path::new(ROOT).join("test_input/panther-t2/images").join(mri), images.join(mri)).unwrap();
    assert_eq!(serving.ask("POST /invoke").0, 201);
    let mask = "images/pancreatic-tumor-segmentation/phantom-t2-mri.mha";
    let expected = read_image(&Path::new(ROOT).join("test_output/panther-t2").join(mask)).unwrap();
    assert_eq!(read_image(&desk.path("out").join(mask)).unwrap(), expected);
    assert!(!desk.path("out").join(MAP).exists() && !desk.path("out/pdac-likelihood.json").exists());
    let (code, log, took) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < END, "{took:?}");
    assert!(log.contains("INFO ready kept_folds=6 folds=6") && log.ends_with("INFO told to end\n"), "{log}");
}

#[test]
fn a_signal_in_the_middle_of_a_case_ends_it_with_nothing_half_written() {
    let desk = Desk::new();
    desk.put_long("scan.mha");
    let serving = Serving::of(&desk);
    serving.wait_until_healthy();
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    write!(stream, "POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    serving.wait_until_said("started stage=\"pancreas\"");
    let (code, log, took) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < END, "{took:?}");
    assert!(!log.contains("done likelihood"), "{log}");
    assert_eq!(desk.outputs(), [""; 0]);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

/// The moment that matters: the map's temporary file is there, the outputs are not yet. The second signal ends the program then
/// and there.
#[test]
fn signals_while_outputs_are_written_leave_all_or_none() {
    let desk = Desk::new();
    desk.put_dull("scan.mha", [256, 256, 256], [0.5; 3]);
    let images = desk.path("out").join(MAP);
    let writing = || {
        let names = fs::read_dir(&images).into_iter().flatten().flatten().map(|e| e.file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with(".writing-"))
    };
    let mut interrupted = 0;
    for pause in [0, 0, 5, 20, 40, 80] {
        let mut child = desk.command(&["run", "--quiet"]).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && !writing() {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(pause));
        let kill = format!("kill {0}; sleep 0.002; kill {0}", child.id());
        let _ended_before = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 130)), "{code:?}");
        let outputs = desk.outputs();
        assert!(
            outputs.is_empty() || outputs == ["pdac-likelihood.json", "run-report.json", "scan.mha"],
            "{outputs:?}"
        );
        assert!(code == Some(130) || !outputs.is_empty());
        interrupted += usize::from(outputs.is_empty());
    }
    assert!(interrupted > 0, "no signal came in time");
}

/// A second signal does not wait.
#[test]
fn a_second_signal_ends_the_program_at_once() {
    let desk = Desk::new();
    // A low-resolution tile of this takes longer than the signals.
    desk.put_long("scan.mha");
    let mut child =
        desk.command(&["run", "--quiet", "--threads", "1", "--cpu-isa", "portable"]).spawn().unwrap();
    sleep(Duration::from_millis(600));
    let started = Instant::now();
    for _ in 0..2 {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        sleep(Duration::from_millis(50));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(desk.outputs(), [""; 0]);
}

/// A log that nobody reads stops the program's threads, but not the signal.
#[test]
fn a_signal_is_followed_while_the_log_is_stuck() {
    let desk = Desk::new();
    desk.put("ruined.mha", b"nothing");
    let mut command = desk.command(&["serve", "--host", "127.0.0.1", "--port", "0"]);
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    let mut log = BufReader::with_capacity(64, child.stderr.take().unwrap());
    log.read_line(&mut first).unwrap();
    let address = first.trim().strip_prefix("INFO listening address=").unwrap().to_owned();
    let invoke = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        write!(stream, "POST /invoke HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        stream.read_to_string(&mut String::new()).map(drop)
    };
    assert!((0..20_000).any(|_| invoke().is_err()), "the log takes everything");
    let took = terminate(&mut child);
    assert!(took < END, "{took:?}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Connections beyond the limit of open files wait; the server lives on.
#[test]
fn many_connections_do_not_end_the_server() {
    let desk = Desk::new();
    desk.put_dull("scan.mha", [4, 20, 22], [9.0, 4.5, 4.5]);
    let mut shell = Command::new("sh");
    shell.current_dir(ROOT).stderr(Stdio::piped()).args(["-c", "ulimit -n 48; exec \"$0\" \"$@\""]);
    shell.arg(assert_cmd::cargo::cargo_bin("pdac-cascade"));
    shell
        .args(["serve", "--host", "127.0.0.1", "--port", "0", "--threads", "2", "--input"])
        .arg(desk.path("in"));
    shell.arg("--output").arg(desk.path("out"));
    let serving = Serving::start(shell);
    serving.wait_until_healthy();
    let idle: Vec<_> = (0..80).filter_map(|_| TcpStream::connect(&serving.address).ok()).collect();
    sleep(Duration::from_millis(300));
    drop(idle);
    serving.wait_until_healthy();
    assert_eq!(serving.ask("POST /invoke").0, 201);
    assert_eq!(serving.end().0, Some(0));
}

#[test]
fn a_signal_ends_a_run_with_its_code_and_nothing_half_written() {
    let desk = Desk::new();
    desk.put_long("scan.mha");
    let mut child = desk.command(&["run", "--threads", "1"]).spawn().unwrap();
    let (mut lines, mut log) = (BufReader::new(child.stderr.take().unwrap()), String::new());
    while !log.contains("started stage=\"pancreas\"") {
        assert_ne!(lines.read_line(&mut log).unwrap(), 0, "{log}");
    }
    let took = terminate(&mut child);
    lines.read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{log}");
    assert!(took < END, "{took:?}");
    assert!(log.lines().last().unwrap().contains("interrupted"), "{log}");
    assert_eq!(desk.outputs(), [""; 0]);
}

#[test]
fn the_environment_chooses_between_run_and_serve() {
    let desk = Desk::new();
    desk.put_dull("scan.mha", [4, 20, 22], [9.0, 4.5, 4.5]);
    let bare = |method: &str| {
        let mut command = desk.command(&[]);
        command.env("PDAC_CASCADE_API_METHOD", method);
        command
    };
    for method in ["exec", ""] {
        let done = bare(method).output().unwrap();
        assert!(done.status.success());
        let [log, warnings] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(
            log.lines().all(|line| line.starts_with(" INFO ")) && log.contains("done likelihood"),
            "{log}"
        );
        assert!(warnings.lines().all(|line| line.starts_with(" WARN ")), "{warnings}");
        assert_eq!(desk.outputs(), ["pdac-likelihood.json", "run-report.json", "scan.mha"]);
    }
    let wrong = bare("both").output().unwrap();
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{message}");
    assert!(
        message.contains("PDAC_CASCADE_API_METHOD is \"both\", expected \"exec\" or \"invoke\""),
        "{message}"
    );
    let mut named = desk.command(&["run"]);
    assert!(named.env("PDAC_CASCADE_API_METHOD", "invoke").status().unwrap().success());

    // On the platform's port, which another server on this machine may have.
    let mut child = bare("invoke").stdout(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(500));
    terminate(&mut child);
    let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
    let log = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(log.lines().next().unwrap().contains("0.0.0.0:4743"), "{log}");
}

#[test]
fn what_keeps_the_server_from_starting_is_said() {
    let desk = Desk::new();
    let none = desk
        .command(&["serve", "--host", "127.0.0.1", "--port", "0", "--weights", "/nowhere"])
        .output()
        .unwrap();
    let log = String::from_utf8(none.stderr).unwrap();
    fs::create_dir_all(desk.path("fifo/panorama")).unwrap();
    assert!(Command::new("mkfifo").arg(desk.path("fifo/panorama/pipeline.json")).status().unwrap().success());
    assert_eq!(none.status.code(), Some(5), "{log}");
    assert!(log.lines().last().unwrap().contains("/nowhere: holds no panorama/pipeline.json or "), "{log}");

    // A client that never finishes its request does not keep the program.
    let fifo = desk.path("fifo");
    let weights = ["serve", "--host", "127.0.0.1", "--port", "0", "--weights", fifo.to_str().unwrap()];
    let mut child = desk.command(&weights).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let mut client =
        TcpStream::connect(first.trim().strip_prefix("INFO listening address=").unwrap()).unwrap();
    client.write_all(b"GET /hea").unwrap();
    fs::write(desk.path("fifo/panorama/pipeline.json"), "{").unwrap();
    let started = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(started.elapsed() < END, "{:?}", started.elapsed());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = desk.command(&["serve", "--host", "127.0.0.1", "--port", &port]).output().unwrap();
    let log = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{log}");
    assert!(
        log.contains(&format!("ERROR 127.0.0.1:{port}: cannot be listened on: Address already in use")),
        "{log}"
    );
}

/// The platform limits private memory, written to or not; what exceeds it would otherwise end in an abort.
#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_private_memory_is_respected() {
    let desk = Desk::new();
    desk.put_dull("scan.mha", [192, 256, 256], [0.5; 3]);
    let limited = |kib: &str| {
        let mut shell = Command::new("sh");
        let program = assert_cmd::cargo::cargo_bin("pdac-cascade");
        shell.current_dir(ROOT).args(["-c", &format!("ulimit -d {kib}; exec \"$0\" \"$@\"")]).arg(program);
        shell.args(["run", "--threads", "2", "--input"]).arg(desk.path("in"));
        let done = shell.arg("--output").arg(desk.path("out")).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, log) = limited("72000");
    assert_eq!(code, Some(6), "{log}");
    assert!(
        log.lines().last().unwrap().contains("scan.mha: the image's voxels need 75497472 bytes"),
        "{log}"
    );
    let (code, log) = limited("400000");
    assert_eq!(code, Some(0), "{log}");
}

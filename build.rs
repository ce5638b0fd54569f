//! With the feature `cuda`: compiles the kernels in `src/ops/cuda/kernels` for the GPUs of challenge platforms, and writes them
//! as constants to `kernels.rs` in the build's folder. Without the feature it does nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::{env, fs, io, thread};

const KERNELS: &str = "src/ops/cuda/kernels";
/// Compute capabilities with machine code of their own: T4, A100, A10G, H100 and H200. Others of a generation run the code of
/// their generation's first; newer generations compile the PTX.
const MACHINE_CODE: [&str; 4] = ["75", "80", "86", "90"];
/// The oldest GPU that the PTX is for.
const PTX_FOR: &str = "75";
/// CUDA 11.0's, so that any driver of this decade takes it; the compiler would write its own.
const PTX_VERSION: &str = ".version 7.0";
/// How many files are compiled at a time.
const AT_A_TIME: usize = 2;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    match compile_kernels() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn compile_kernels() -> Result<(), String> {
    println!("cargo::rerun-if-changed={KERNELS}");
    let nvcc = find_nvcc()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR: not set; cargo sets it")?);
    let sources = kernel_files()?;
    let queue = Mutex::new(sources.iter());
    let next = || queue.lock().ok()?.next();
    let worker = || -> Result<(), String> {
        while let Some(source) = next() {
            compile_file(&nvcc, source, &out)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".into())))
            .collect::<Result<Vec<_>, _>>()
    })?;
    write(&out.join("kernels.rs"), &list_of_modules(&sources))
}

/// The compiler that the environment names, or else the one in PATH.
fn find_nvcc() -> Result<PathBuf, String> {
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = if let Some(path) = env::var_os("NVCC") {
        PathBuf::from(path)
    } else if let Some(home) = env::var_os("CUDA_HOME") {
        Path::new(&home).join("bin/nvcc")
    } else {
        PathBuf::from("nvcc")
    };
    let got = match Command::new(&nvcc).arg("--version").output() {
        Ok(output) if output.status.success() => return Ok(nvcc),
        Ok(output) => output.status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "{}: expected CUDA's compiler, from NVCC, CUDA_HOME/bin or PATH, got {got}; `scripts/build_cuda.sh` gets one and builds with it",
        nvcc.display()
    ))
}

/// The files to compile, in the order of their names.
fn kernel_files() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(KERNELS).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files: Vec<_> =
        entries.map_err(|e| format!("{KERNELS}: {e}"))?.iter().map(fs::DirEntry::path).collect();
    files.sort();
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "cu"));
    Ok(files)
}

/// One fatbin with machine code and PTX, and the PTX once more as text, for drivers that do not take the fatbin.
fn compile_file(nvcc: &Path, source: &Path, out: &Path) -> Result<(), String> {
    let name = module_name(source);
    let file = |extension: &str| out.join(format!("{name}.{extension}"));
    let architecture =
        |kind: &str, number: &str| format!("-gencode=arch=compute_{number},code={kind}_{number}");

    let mut fatbin = compiler(nvcc, "--fatbin", &file("fatbin"), source);
    fatbin.arg("-Xfatbin=-compress-all");
    fatbin.args(MACHINE_CODE.map(|number| architecture("sm", number))).arg(architecture("compute", PTX_FOR));
    succeed(fatbin)?;

    let ptx = file("ptx");
    let mut text = compiler(nvcc, "--ptx", &ptx, source);
    text.arg(architecture("compute", PTX_FOR));
    succeed(text)?;
    let text = fs::read_to_string(&ptx).map_err(|e| format!("{}: {e}", ptx.display()))?;
    write(&ptx, &with_older_version(&text).map_err(|e| format!("{}: {e}", ptx.display()))?)?;

    // The older version must do for what the kernels use.
    let mut check = Command::new(nvcc);
    check.arg("--cubin").arg(format!("-arch=sm_{PTX_FOR}")).arg("-o").arg(file("cubin")).arg(&ptx);
    succeed(check)
}

fn compiler(nvcc: &Path, product: &str, target: &Path, source: &Path) -> Command {
    let mut command = Command::new(nvcc);
    command.args([product, "-O3", "-std=c++17", "-Werror=all-warnings", "-o"]).arg(target).arg(source);
    command
}

fn succeed(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status))
}

/// The PTX with its line `.version` rewritten.
fn with_older_version(ptx: &str) -> Result<String, String> {
    let is_version = |line: &&str| line.starts_with(".version ");
    let found = ptx.lines().filter(is_version).count();
    if found != 1 {
        return Err(format!("expected one line that begins with `.version`, got {found}"));
    }
    let lines: Vec<_> = ptx.lines().map(|line| if is_version(&line) { PTX_VERSION } else { line }).collect();
    Ok(lines.join("\n") + "\n")
}

/// Rust that names every file's products.
fn list_of_modules(sources: &[PathBuf]) -> String {
    let modules: String = sources
        .iter()
        .map(|source| {
            let name = module_name(source);
            let file = |extension: &str| format!("(concat!(env!(\"OUT_DIR\"), \"/{name}.{extension}\"))");
            format!(
                "    Module {{ name: \"{name}\", fatbin: include_bytes!{}, ptx: include_str!{} }},\n",
                file("fatbin"),
                file("ptx")
            )
        })
        .collect();
    format!(
        "/// The compiled kernels, a module a file of `{KERNELS}`, in the order of their names.\npub static MODULES: &[Module] = &[\n{modules}];\n"
    )
}

fn module_name(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

//! The program: the process's own streams and clock around [`qihui::run`].

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let terminal = stderr.is_terminal();
    let mut surroundings = qihui::Surroundings {
        stdout: &mut stdout,
        stderr: &mut stderr,
        clock: Arc::new(qihui_audit::SystemClock),
        terminal,
    };
    ExitCode::from(qihui::run(std::env::args_os(), &mut surroundings))
}

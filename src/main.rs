//! The program: the process's own streams and clock around [`qihui::run`].

use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(say_where));
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

/// Says where a panic was, and not what about: the text could hold a value of an enterprise.
fn say_where(panic: &PanicHookInfo<'_>) {
    if let Some(place) = panic.location() {
        // If stderr is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "InternalError: stopped at {place}");
    }
}

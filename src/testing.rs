//! What the tests of this crate share: a hub in a folder of its own, with a bank in it.

use std::path::Path;
use std::sync::Arc;

use qihui_audit::Clock;

use crate::config::Config;
use crate::hub::Opening;
use crate::layout::Layout;
use crate::{Surroundings, run};

/// What the bank may ask for.
pub const PURPOSE: &str = "matching.supply_demand";

/// Does a command, which has to succeed.
#[track_caller]
pub fn command(dir: &Path, clock: &Arc<dyn Clock>, words: &[&str]) {
    let line = [&["qihui", "--data-dir", dir.to_str().unwrap()], words].concat();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut surroundings = Surroundings {
        stdout: &mut stdout,
        stderr: &mut stderr,
        clock: Arc::clone(clock),
        terminal: false,
    };
    let code = run(line, &mut surroundings);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&stderr));
}

/// Makes a hub with the organisation `bank`, which may ask for [`PURPOSE`]; what is needed to open it.
pub fn hub_with_bank(dir: &Path, clock: &Arc<dyn Clock>) -> Opening {
    command(dir, clock, &["init"]);
    let bank = ["org", "add", "bank", "--name", "Bank", "--kind", "bank"];
    command(dir, clock, &[&bank[..], &["--purpose", PURPOSE]].concat());
    Opening {
        layout: Layout::new(dir),
        config: Config::default(),
        clock: Arc::clone(clock),
        shared: None,
    }
}

//! Takes a world through its orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::query::{Outcome, run};
use crate::world::{Story, World};

/// Most steps of one order. Who needs more goes on for ever.
const STEPS: usize = 5_000;

/// How far orders are followed.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// How often an order may take the turn from a thread that could go on. A thread that waits gives it away anyhow.
    pub preemptions: usize,
    /// No new order is begun after this.
    pub time: Duration,
}

impl Reach {
    /// As far as the environment says.
    pub fn asked() -> Self {
        let preemptions = number("QIHUI_PREEMPTIONS").unwrap_or(2);
        Self {
            preemptions: usize::try_from(preemptions).unwrap(),
            time: Duration::from_secs(number("QIHUI_SECONDS").unwrap_or(20)),
        }
    }
}

/// A number of the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// How often queries ended how; one per order.
pub type Orders = BTreeMap<Outcome, u64>;

/// Takes a story through its orders.
///
/// # Panics
/// At the first order in which something does not hold.
pub fn explore(story: Story, reach: Reach) -> Orders {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let world = Arc::new(runtime.block_on(World::new(story)));
    let orders = Arc::new(Mutex::new(Orders::new()));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(reach.preemptions);
    model.max_branches = STEPS;
    model.max_duration = Some(reach.time);
    // It looks at the time only here.
    model.checkpoint_interval = 100;
    let started = Instant::now();
    model.check({
        let orders = Arc::clone(&orders);
        move || {
            let outcome = run(&world).unwrap_or_else(|why| panic!("{why}"));
            *orders.lock().entry(outcome).or_default() += 1;
        }
    });
    if started.elapsed() >= reach.time {
        println!("not all orders: the time was over");
    }
    orders.lock().clone()
}

//! A real broker of Apache Kafka, and what tests do with it. The tests of the program and those of `ingest` share this
//! file; the broker comes from `scripts/kafka`.
//!
//! One broker serves all tests of a process, each test with topics of its own. It is stopped when the process is gone,
//! however it went: a child waits for the end of a pipe that only the process holds open.

#![allow(dead_code, reason = "each of the two uses its part")]

use std::{
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::{ClientContext, DefaultClientContext},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that runs, or ran.
pub struct Broker {
    dir: PathBuf,
    pub address: String,
    /// Open as long as this process lives.
    _watched: ChildStdin,
}

/// A message to be produced.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
    pub time_ms: Option<i64>,
}

impl Sent {
    /// A message with a value and nothing else.
    pub fn value(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self {
            partition,
            value: Some(value.into()),
            ..Self::default()
        }
    }
}

fn script(verb: &str, dir: &Path, more: Option<&str>) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The tests of a member lie one folder deeper.
    let root = [root, root.parent().unwrap_or(root)];
    let script = root.map(|root| root.join("scripts/kafka"));
    let script = script.iter().find(|script| script.is_file()).unwrap();
    let output = Command::new("bash")
        .arg(script)
        .arg(verb)
        .arg(dir)
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/kafka {verb}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Stops the broker in `dir` and removes the folder once this process is gone.
pub fn watch(dir: &Path) -> ChildStdin {
    use std::os::unix::process::CommandExt as _;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("scripts/kafka");
    let script = if script.is_file() {
        script
    } else {
        root.join("../scripts/kafka")
    };
    let mut watcher = Command::new("bash");
    watcher
        .args(["-c", "cat; bash \"$0\" stop \"$1\"; rm -rf \"$1\""])
        .arg(script)
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not ended by what ends this process.
        .process_group(0);
    watcher.spawn().unwrap().stdin.take().unwrap()
}

impl Broker {
    /// The broker that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::own)
    }

    /// A broker of a test's own, which it may stop.
    pub fn own() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kafka-")
            .tempdir()
            .unwrap()
            .keep();
        let watched = watch(&dir);
        let address = script("start", &dir, None);
        Self {
            dir,
            address,
            _watched: watched,
        }
    }

    pub fn stop(&self) {
        script("stop", &self.dir, None);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        script("kill", &self.dir, None);
    }

    /// Starts it again, at the same address.
    pub fn start(&self) {
        assert_eq!(script("start", &self.dir, None), self.address);
    }

    /// Loses everything it holds. It has to be stopped.
    pub fn lose_everything(&self) {
        std::fs::remove_dir_all(self.dir.join("data")).unwrap();
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    fn admin<T: Send>(
        &self,
        work: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> T + Send,
    ) -> T {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        // A thread of its own: the test may run inside a runtime.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(work(&admin, &options))
            });
            thread.join().unwrap()
        })
    }

    /// Makes a topic whose name begins with `name`.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{count}", std::process::id());
        self.create(&name, partitions);
        name
    }

    pub fn create(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", "104857600");
        let made = self.admin(async |admin, options| admin.create_topics([&topic], options).await);
        made.unwrap().pop().unwrap().unwrap();
        // The broker that answers may know of it a moment before the others do.
        let producer: BaseProducer = self.config().create().unwrap();
        loop {
            let metadata = producer
                .client()
                .fetch_metadata(Some(name), PATIENCE)
                .unwrap();
            let topic = &metadata.topics()[0];
            if topic.error().is_none() && topic.partitions().iter().all(|p| p.leader() >= 0) {
                break;
            }
        }
    }

    pub fn delete(&self, name: &str) {
        let gone = self.admin(async |admin, options| admin.delete_topics(&[name], options).await);
        gone.unwrap().pop().unwrap().unwrap();
        let producer: BaseProducer = self.config().create().unwrap();
        loop {
            let metadata = producer
                .client()
                .fetch_metadata(Some(name), PATIENCE)
                .unwrap();
            if metadata.topics()[0].error().is_some() {
                break;
            }
        }
    }

    /// Removes the messages of a partition before `offset`, as retention does.
    pub fn remove_before(&self, name: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(name, partition, rdkafka::Offset::Offset(offset))
            .unwrap();
        let gone = self.admin(async |admin, options| admin.delete_records(&list, options).await);
        gone.unwrap();
    }

    /// Produces messages in their order and waits until all of them are there.
    pub fn send(&self, topic: &str, messages: impl IntoIterator<Item = Sent>) {
        let mut config = self.config();
        config
            .set("message.max.bytes", "104857600")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "500000");
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).unwrap();
        let mut sent = 0;
        for message in messages {
            sent += 1;
            let mut record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(topic).partition(message.partition);
            record.key = message.key.as_deref();
            record.payload = message.value.as_deref();
            record.timestamp = message.time_ms;
            if !message.headers.is_empty() {
                let insert = |headers: OwnedHeaders, (key, value): &(String, String)| {
                    let value = Some(value);
                    headers.insert(Header { key, value })
                };
                record.headers = Some(message.headers.iter().fold(OwnedHeaders::new(), insert));
            }
            while let Err((error, again)) = producer.send(record) {
                let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
                assert_eq!(error.rdkafka_error_code(), Some(full), "{error}");
                producer.poll(Duration::from_millis(10));
                record = again;
            }
        }
        producer.flush(PATIENCE).unwrap();
        let delivered = producer.context().0.load(Ordering::Relaxed);
        assert_eq!(delivered, sent, "the broker took them all");
    }
}

/// Counts messages that the broker has taken.
#[derive(Default)]
struct Deliveries(AtomicU32);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.0.fetch_add(1, Ordering::Relaxed)),
            // A panic would not pass through the client library.
            #[allow(clippy::print_stderr)]
            Err((error, _)) => {
                eprintln!("not delivered: {error}");
            }
        }
    }
}

//! The snapshot worker of a node: tasks that send, and one thread that installs.

use super::install::{self, Step};
use super::metrics::{Metrics, failed};
use super::send::Sender;
use super::{InstallDone, SendDone, SendJob, SnapshotSettings, Snapshots, StagedSnapshot, stage};
use crate::transport::{AddressBook, Identity};
use crossbeam_channel::{Receiver, unbounded};
use parking_lot::Mutex;
use rangedb_engine::Engine;
use rangedb_mvcc::state::InstallIntent;
use rangedb_types::RangeId;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Snapshots that wait for their turn to be sent. Each holds a view of the engine.
const SENDS_WAITING_MAX: usize = 32;

/// What a worker is made of.
pub struct SnapshotOptions {
    pub identity: Identity,
    pub engine: Arc<dyn Engine>,
    pub addresses: Arc<AddressBook>,
    pub settings: SnapshotSettings,
    /// Where the tasks run.
    pub runtime: Handle,
}

/// Work for the thread. Not bounded by itself: every installation is of a snapshot that holds one
/// of the few places for receiving, and the rest follows from these.
enum Job {
    Install(Box<StagedSnapshot>, InstallDone),
    Finish(RangeId),
    Discard(PathBuf),
}

/// See the module.
pub struct SnapshotWorker {
    sender: Arc<Sender>,
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// `None` once it is stopped.
    jobs: Mutex<Option<crossbeam_channel::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SnapshotWorker {
    /// # Errors
    /// The thread cannot be started.
    pub fn start(options: SnapshotOptions) -> Result<Arc<Self>, std::io::Error> {
        let (jobs, receiver) = unbounded();
        let engine = Arc::clone(&options.engine);
        let thread = std::thread::Builder::new()
            .name("snapshot-install".to_owned())
            .spawn(move || run(engine.as_ref(), &receiver))?;
        let cancel = CancellationToken::new();
        let sender = Sender::new(
            options.identity,
            options.addresses,
            options.settings,
            SENDS_WAITING_MAX,
            cancel.clone(),
        );
        Ok(Arc::new(Self {
            sender: Arc::new(sender),
            runtime: options.runtime,
            tasks: TaskTracker::new(),
            cancel,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Gives up what is being sent, finishes what is being installed, and waits for both.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.jobs.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the snapshot thread panicked");
            }
        }
    }

    /// Gives the job back if the thread is gone.
    fn job(&self, job: Job) -> Result<(), Job> {
        match self.jobs.lock().as_ref() {
            Some(jobs) => jobs.send(job).map_err(|error| error.0),
            None => Err(job),
        }
    }
}

impl Snapshots for SnapshotWorker {
    fn send(&self, job: SendJob, done: SendDone) {
        let sender = Arc::clone(&self.sender);
        let Some(place) = sender.place() else {
            Metrics::get().failures.with_label_values(&[failed::SEND]).inc();
            tracing::warn!(range_id = %job.descriptor.range_id, "too many snapshots wait to be sent");
            done(false);
            return;
        };
        // If the task is dropped before it ends, the leader learns that, too.
        let done = Outcome(Some(done));
        self.tasks.spawn_on(
            async move {
                let installed = sender.send(job, place).await;
                done.tell(installed);
            },
            &self.runtime,
        );
    }

    fn install(&self, staged: StagedSnapshot, done: InstallDone) {
        if let Err(Job::Install(_, done)) = self.job(Job::Install(Box::new(staged), done)) {
            done(Err("the node is stopping".to_owned()));
        }
    }

    fn finish(&self, range_id: RangeId) {
        // At the next start the installation is found to be complete.
        let _ = self.job(Job::Finish(range_id));
    }

    fn discard(&self, staged: StagedSnapshot) {
        // The next start removes what is left.
        let _ = self.job(Job::Discard(staged.path));
    }
}

/// Tells the leader exactly once.
struct Outcome(Option<SendDone>);

impl Outcome {
    fn tell(mut self, installed: bool) {
        if let Some(done) = self.0.take() {
            done(installed);
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(false);
        }
    }
}

fn run(engine: &dyn Engine, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Install(staged, done) => done(install_one(engine, &staged)),
            Job::Discard(path) => stage::remove(&path),
            Job::Finish(range_id) => {
                // The store learns of a broken engine at its next write.
                if let Err(error) = install::remove_intent(engine, range_id) {
                    tracing::error!(%range_id, error, "cannot remove the intent of a snapshot");
                }
            }
        }
    }
}

pub(super) fn install_one(engine: &dyn Engine, staged: &StagedSnapshot) -> Result<(), String> {
    let metrics = Metrics::get();
    let timer = metrics.install_seconds.start_timer();
    let range_id = staged.descriptor.range_id;
    let result = intent_of(staged).and_then(|intent| {
        install::install(engine, &staged.path, &intent, &mut |step: Step| {
            tracing::debug!(%range_id, ?step, "installing a snapshot");
            Ok(())
        })
    });
    match &result {
        Ok(()) => {
            timer.observe_duration();
            metrics.installed.inc();
            stage::remove(&staged.path);
        }
        Err(_) => {
            timer.stop_and_discard();
            metrics.failures.with_label_values(&[failed::INSTALL]).inc();
        }
    }
    result
}

pub(super) fn intent_of(staged: &StagedSnapshot) -> Result<InstallIntent, String> {
    let folder = staged.path.file_name().and_then(|name| name.to_str());
    Ok(InstallIntent {
        replica_id: staged.to_replica,
        descriptor: staged.descriptor.clone(),
        index: staged.position.index,
        term: staged.position.term,
        staged: folder.ok_or("a staged folder has no name")?.to_owned(),
    })
}

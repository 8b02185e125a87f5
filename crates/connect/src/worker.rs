use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::{Cluster, ConsumeSettings, DeadLetters, Process, ProcessError, Record, consume};
use parking_lot::Mutex;
use service::{Backoff, CancellationToken, Condition, Health};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::store::{Event, Listener, Scope, Target};
use crate::{Config, Problem, Sink, SinkTask, Subscription, TaskContext};

/// Runs the tasks of the connectors that are wanted.
pub(crate) struct Worker {
    pub(crate) id: String,
    cluster: Cluster,
    registry_url: String,
    sinks: Vec<Arc<dyn Sink>>,
    dead_letters: DeadLetters,
    shutdown: CancellationToken,
    state: Mutex<State>,
    loaded: CancellationToken,
}

#[derive(Default)]
struct State {
    connectors: BTreeMap<String, Connector>,
    /// A target may stand in the topic before its connector does: compaction keeps the last record of each key only.
    targets: BTreeMap<String, Target>,
    loaded: bool,
}

struct Connector {
    config: Config,
    fate: Fate,
    tasks: Vec<Task>,
}

/// What this worker makes of a connector.
enum Fate {
    /// Its class is another worker's, or it was not looked at yet.
    Unassigned,
    Running,
    Paused,
    /// Its configuration can't be used.
    Failed(String),
}

struct Task {
    status: Arc<TaskStatus>,
    cancel: CancellationToken,
    join: Option<JoinHandle<()>>,
}

struct TaskStatus {
    state: Mutex<TaskState>,
    health: Health,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TaskState {
    Unassigned,
    Running,
    Paused,
    Failed(String),
}

/// A connector's or task's state as answers show it.
pub(crate) struct Shown {
    pub(crate) state: &'static str,
    /// Why it failed, or what a running task is retrying.
    pub(crate) trace: Option<String>,
}

/// A connector as answers show it.
pub(crate) struct View {
    pub(crate) config: Config,
    pub(crate) connector: Shown,
    pub(crate) tasks: Vec<Shown>,
}

impl Worker {
    pub(crate) fn new(
        id: String,
        cluster: Cluster,
        registry_url: String,
        sinks: Vec<Arc<dyn Sink>>,
        dead_letters: DeadLetters,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            id,
            cluster,
            registry_url,
            sinks,
            dead_letters,
            shutdown,
            state: Mutex::default(),
            loaded: CancellationToken::new(),
        }
    }

    pub(crate) fn sinks(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
    }

    /// The sink of a class, by its full name, an alias, or the name without its package and without `Connector`.
    pub(crate) fn sink(&self, class: &str) -> Option<&Arc<dyn Sink>> {
        let simple = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
        self.sinks.iter().find(|sink| {
            let full = sink.class();
            class == full
                || sink.aliases().contains(&class)
                || class == simple(full)
                || Some(class) == simple(full).strip_suffix("Connector")
        })
    }

    /// The secret keys of a configuration's sink.
    pub(crate) fn secret_keys(&self, config: &Config) -> Vec<&'static str> {
        let sink = config.class().and_then(|class| self.sink(class));
        sink.map(|sink| {
            let keys = sink.keys().iter().filter(|key| key.secret);
            keys.map(|key| key.name).collect()
        })
        .unwrap_or_default()
    }

    /// What is wrong with a configuration for this sink.
    pub(crate) fn problems(sink: &dyn Sink, config: &Config) -> Vec<Problem> {
        let mut problems = config.common_problems();
        problems.extend(sink.validate(config));
        if problems.is_empty() {
            problems.extend(sink.retries(config).err());
        }
        problems
    }

    /// Resolves when the config topic has been read once.
    pub(crate) async fn loaded(&self) {
        self.loaded.cancelled().await;
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_cancelled()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().connectors.keys().cloned().collect()
    }

    pub(crate) fn view(&self, name: &str) -> Option<View> {
        let state = self.state.lock();
        let connector = state.connectors.get(name)?;
        let (shown, trace) = match &connector.fate {
            Fate::Unassigned => ("UNASSIGNED", None),
            Fate::Running => ("RUNNING", None),
            Fate::Paused => ("PAUSED", None),
            Fate::Failed(trace) => ("FAILED", Some(trace.clone())),
        };
        Some(View {
            config: connector.config.clone(),
            connector: Shown {
                state: shown,
                trace,
            },
            tasks: connector.tasks.iter().map(|t| t.status.show()).collect(),
        })
    }

    /// What does not work, as one text; `None` when everything does. And how many tasks are in which state.
    pub(crate) fn summary(&self) -> (Option<String>, BTreeMap<&'static str, i64>) {
        let state = self.state.lock();
        let mut troubles = Vec::new();
        let mut counts = BTreeMap::from([
            ("RUNNING", 0),
            ("PAUSED", 0),
            ("FAILED", 0),
            ("UNASSIGNED", 0),
        ]);
        for (name, connector) in &state.connectors {
            if let Fate::Failed(trace) = &connector.fate {
                troubles.push(format!("{name}: {trace}"));
            }
            for (id, task) in connector.tasks.iter().enumerate() {
                let shown = task.status.show();
                *counts.entry(shown.state).or_default() += 1;
                if let Some(trace) = shown.trace {
                    troubles.push(format!("{name}, task {id}: {trace}"));
                }
            }
        }
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        (trouble, counts)
    }

    /// Waits until every task has left its group and ended.
    pub(crate) async fn drain(&self) {
        let joins: Vec<JoinHandle<()>> = {
            let mut state = self.state.lock();
            let tasks = state.connectors.values_mut().flat_map(|c| &mut c.tasks);
            tasks
                .filter_map(|task| {
                    task.cancel.cancel();
                    task.join.take()
                })
                .collect()
        };
        for join in joins {
            // A task's panic has become its state.
            let _ended = join.await;
        }
    }

    fn reconcile(&self, state: &mut State, name: &str) {
        if !state.loaded {
            return;
        }
        let target = state.targets.get(name).copied().unwrap_or(Target::Started);
        let Some(connector) = state.connectors.get_mut(name) else {
            return;
        };
        let before = stop(&mut connector.tasks);
        let Some(sink) = connector.config.class().and_then(|c| self.sink(c)) else {
            connector.fate = Fate::Unassigned;
            return;
        };
        let problems = Self::problems(sink.as_ref(), &connector.config);
        if let Some(first) = problems.first() {
            let trace = first.to_string();
            tracing::error!(connector = name, %trace, "the connector can't be started");
            connector.fate = Fate::Failed(trace);
            return;
        }
        let tasks = connector.config.tasks_max().unwrap_or(1);
        match target {
            Target::Paused => {
                tracing::info!(connector = name, "paused");
                connector.fate = Fate::Paused;
                connector.tasks = (0..tasks).map(|_| Task::paused()).collect();
            }
            Target::Started => {
                tracing::info!(connector = name, tasks, "started");
                connector.fate = Fate::Running;
                connector.tasks = (0..tasks)
                    .map(|id| self.start(name, id, &connector.config, sink, &before))
                    .collect();
            }
        }
    }

    fn restart(&self, state: &mut State, name: &str, scope: Scope) {
        if !state.loaded {
            // From before this worker's start: everything starts anyway.
            return;
        }
        let Some(connector) = state.connectors.get_mut(name) else {
            return;
        };
        if !matches!(connector.fate, Fate::Running) {
            self.reconcile(state, name);
            return;
        }
        let Some(sink) = connector.config.class().and_then(|c| self.sink(c)) else {
            return;
        };
        for (id, task) in (0..).zip(connector.tasks.iter_mut()) {
            let wanted = match scope {
                Scope::All => true,
                Scope::Failed => task.status.is_failed(),
                Scope::Task(wanted) => wanted == id,
            };
            if wanted {
                tracing::info!(connector = name, task = id, "restarted");
                let before = stop(std::slice::from_mut(task));
                *task = self.start(name, id, &connector.config, sink, &before);
            }
        }
    }

    /// Starts a task once its predecessors are `gone`.
    fn start(
        &self,
        name: &str,
        id: u32,
        config: &Config,
        sink: &Arc<dyn Sink>,
        gone: &CancellationToken,
    ) -> Task {
        let status = Arc::new(TaskStatus::new(TaskState::Unassigned));
        let cancel = self.shutdown.child_token();
        let run = TaskRun {
            sink: Arc::clone(sink),
            connector: Arc::from(name),
            task: id,
            config: config.clone(),
            cluster: self.cluster.clone(),
            registry_url: config
                .get("value.converter.schema.registry.url")
                .unwrap_or(&self.registry_url)
                .to_owned(),
            dead_letters: self.dead_letters.clone(),
            status: Arc::clone(&status),
            cancel: cancel.clone(),
            gone: gone.clone(),
        };
        let span = tracing::info_span!("task", connector = name, task = id);
        let join = tokio::spawn(run.supervise().instrument(span));
        Task {
            status,
            cancel,
            join: Some(join),
        }
    }
}

impl Listener for Worker {
    fn event(&self, event: Event) {
        let mut state = self.state.lock();
        let state = &mut *state;
        match event {
            Event::Configured(name, config) => {
                let known = state.connectors.get(&name);
                if known.is_some_and(|known| known.config == config) {
                    return;
                }
                match state.connectors.get_mut(&name) {
                    Some(connector) => connector.config = config,
                    None => {
                        let connector = Connector {
                            config,
                            fate: Fate::Unassigned,
                            tasks: Vec::new(),
                        };
                        state.connectors.insert(name.clone(), connector);
                    }
                }
                self.reconcile(state, &name);
            }
            Event::Deleted(name) => {
                state.targets.remove(&name);
                if let Some(mut connector) = state.connectors.remove(&name) {
                    tracing::info!(connector = name, "deleted");
                    stop(&mut connector.tasks);
                }
            }
            Event::Target(name, target) => {
                let before = state.targets.insert(name.clone(), target);
                if before.unwrap_or(Target::Started) != target {
                    self.reconcile(state, &name);
                }
            }
            Event::Restart(name, scope) => self.restart(state, &name, scope),
        }
    }

    fn loaded(&self) {
        let mut state = self.state.lock();
        state.loaded = true;
        let names: Vec<String> = state.connectors.keys().cloned().collect();
        for name in names {
            self.reconcile(&mut state, &name);
        }
        self.loaded.cancel();
    }
}

/// Tells tasks to end; the returned token fires when they have.
fn stop(tasks: &mut [Task]) -> CancellationToken {
    let gone = CancellationToken::new();
    let joins: Vec<JoinHandle<()>> = tasks
        .iter_mut()
        .filter_map(|task| {
            task.cancel.cancel();
            task.join.take()
        })
        .collect();
    if joins.is_empty() {
        gone.cancel();
    } else {
        let gone = gone.clone();
        tokio::spawn(async move {
            for join in joins {
                let _ended = join.await;
            }
            gone.cancel();
        });
    }
    gone
}

impl Task {
    fn paused() -> Self {
        Self {
            status: Arc::new(TaskStatus::new(TaskState::Paused)),
            cancel: CancellationToken::new(),
            join: None,
        }
    }
}

impl TaskStatus {
    fn new(state: TaskState) -> Self {
        let health = Health::default();
        health.set_ready();
        Self {
            state: Mutex::new(state),
            health,
        }
    }

    fn set(&self, state: TaskState) {
        *self.state.lock() = state;
    }

    fn is_failed(&self) -> bool {
        matches!(*self.state.lock(), TaskState::Failed(_))
    }

    fn show(&self) -> Shown {
        let (state, trace) = match &*self.state.lock() {
            TaskState::Unassigned => ("UNASSIGNED", None),
            TaskState::Paused => ("PAUSED", None),
            TaskState::Failed(trace) => ("FAILED", Some(trace.clone())),
            TaskState::Running => ("RUNNING", self.health.failing().into_values().next()),
        };
        Shown { state, trace }
    }
}

/// One run of a task, from its start to its end.
struct TaskRun {
    sink: Arc<dyn Sink>,
    connector: Arc<str>,
    task: u32,
    config: Config,
    cluster: Cluster,
    registry_url: String,
    dead_letters: DeadLetters,
    status: Arc<TaskStatus>,
    cancel: CancellationToken,
    gone: CancellationToken,
}

struct Put(Box<dyn SinkTask>);

impl Process for Put {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        self.0.put(batch).await
    }
}

impl TaskRun {
    async fn supervise(self) {
        let status = Arc::clone(&self.status);
        // A task of its own, so that a panic becomes this task's state and nobody else's.
        let ended = tokio::spawn(self.run().in_current_span()).await;
        let state = match ended {
            Ok(Ok(())) => TaskState::Unassigned,
            Ok(Err(error)) => TaskState::Failed(format!("{error:#}")),
            Err(panic) => TaskState::Failed(format!("the task broke off: {panic}")),
        };
        if let TaskState::Failed(trace) = &state {
            tracing::error!(%trace, "the task failed; restart it when the cause is gone");
        }
        status.set(state);
    }

    async fn run(self) -> anyhow::Result<()> {
        self.gone.cancelled().await;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let condition = self.status.health.condition("task");
        self.status.set(TaskState::Running);
        let retries = self.sink.retries(&self.config).map_err(invalid)?;
        let Some(task) = self.open(&condition).await? else {
            return Ok(());
        };
        let topics = match self.config.subscription().map_err(invalid)? {
            Subscription::Topics(topics) => topics,
            // Java's pattern has to match the whole name; librdkafka's where '^' stands, and it knows no '(?:…)'.
            Subscription::Pattern(pattern) => vec![format!("^({pattern})$")],
        };
        let settings = ConsumeSettings {
            max_retries: retries.most,
            retry_first: retries.first,
            retry_longest: retries.longest,
            properties: self.config.consumer_properties().map_err(invalid)?,
            ..ConsumeSettings::new(format!("connect-{}", self.connector), topics)
        };
        let mut put = Put(task);
        consume(&self.cluster, &settings, &mut put, &condition, &self.cancel).await
    }

    /// `None` when told to stop before the database could be opened.
    async fn open(&self, condition: &Condition) -> anyhow::Result<Option<Box<dyn SinkTask>>> {
        let context = TaskContext {
            connector: Arc::clone(&self.connector),
            task: self.task,
            config: self.config.clone(),
            registry: self.cluster.registry(&self.registry_url)?,
            dead_letters: self.dead_letters.clone(),
        };
        let retries = self.sink.retries(&self.config).map_err(invalid)?;
        let mut backoff = Backoff::new(retries.first, retries.longest);
        let mut tried = 0;
        loop {
            let opened = tokio::select! {
                opened = self.sink.start_task(context.clone()) => opened,
                () = self.cancel.cancelled() => return Ok(None),
            };
            let reason = match opened {
                Ok(task) => {
                    condition.ok();
                    return Ok(Some(task));
                }
                Err(ProcessError::Fatal(error)) => return Err(error),
                Err(ProcessError::Retry(reason)) => reason,
            };
            if retries.most.is_some_and(|most| tried >= most) {
                anyhow::bail!("gave up after {tried} retries: {reason}");
            }
            tried += 1;
            condition.fail(reason);
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = self.cancel.cancelled() => return Ok(None),
            }
        }
    }
}

fn invalid(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

//! Rounds: actors work, something is broken at a random moment, everything comes back, and the oracle judges.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::actor::{GENERATION_BITS, Load};
use super::content::{Described, Image};
use super::journal::{self, Record};
use super::names::Entry;
use super::observe::{self, Found};
use super::oracle::{Fault, Kind, LOG_UNSYNCED_MAX, Model, Moment, Problem, Verdict};
use crate::cluster::{Cluster, IN_TIME, Mount, Shape, Storage};
use crate::programs::{program, test_program};

const ACTORS: usize = 3;
pub(super) const CHUNKSERVERS: usize = 3;
/// How long actors may take to finish: as long as a client waits for chunkservers, and some.
const FINISH_MAX: Duration = Duration::from_secs(60);
/// A mount that works waits for copies that come back, but no test is to wait for those that do not.
const WORK_OPTIONS: [&str; 2] = ["-o", "chunk_timeout=20s"];
/// What is found must be readable: a mount that looks does not wait longer for copies that will not come.
const LOOK_OPTIONS: [&str; 2] = ["-o", "chunk_timeout=4s"];

/// Every twelve rounds are these, in random order.
pub const FAULTS: [Fault; 12] = [
    Fault::Everything,
    Fault::Everything,
    Fault::Everything,
    Fault::AllChunkservers,
    Fault::AllChunkservers,
    Fault::OneChunkserver,
    Fault::OneChunkserver,
    Fault::Master,
    Fault::Master,
    Fault::Client,
    Fault::KillMaster,
    Fault::KillChunkservers,
];

/// What a campaign is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the cluster, for reports.
    pub name: String,
    /// Of all choices.
    pub seed: u64,
    /// Each comes once before they come again.
    pub faults: Vec<Fault>,
    /// Whether they come in the order above.
    pub in_order: bool,
    /// What the actors do.
    pub load: Load,
    /// Whether the first chunkserver's disk can fail on demand.
    pub faulty_disk: bool,
}

/// A cluster, and what was promised on it.
pub struct Campaign {
    pub(super) cluster: Cluster,
    plan: Plan,
    pub(super) mount: Option<Mount>,
    models: Vec<Model>,
    round: u32,
    problems: Vec<Broken>,
}

/// A promise that was broken in a round.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Of which cluster.
    pub cluster: String,
    /// In which round.
    pub round: u32,
    /// After which fault.
    pub fault: Fault,
    /// How.
    pub problem: Problem,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, round, fault, problem: Problem { kind, words } } = self;
        write!(out, "{cluster} round {round}, {fault:?}: {kind:?}: {words}")
    }
}

struct Actors {
    child: Child,
    journals: PathBuf,
}

/// What a round adds to the verification that every round has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    /// After a cut of everything, one chunkserver does not come back before all that was promised was found.
    pub(super) one_stays_away: Option<usize>,
    /// When all has its copies again, one chunkserver goes and all is verified once more.
    then_lose: Option<usize>,
    /// All stop, and the offline checkers look.
    check_offline: bool,
}

impl Campaign {
    /// Makes the cluster.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let seconds = |key: &str, seconds: &str| format!("{key}={seconds}");
        let shape = Shape {
            chunkservers: CHUNKSERVERS,
            storage: Storage::Xfs {
                master_bytes: 1 << 30,
                chunkserver_bytes: 1 << 30,
                first_may_fail: plan.faulty_disk,
            },
            // Shorter than usual, so that rounds are.
            master_settings: vec![
                seconds("session_expiry", "3s"),
                seconds("heartbeat_interval", "500ms"),
                seconds("repair_delay", "1s"),
                seconds("mass_outage_wait", "5s"),
                seconds("chunk_wait", "2s"),
                seconds("log_unsynced_max", &format!("{}ms", LOG_UNSYNCED_MAX.as_millis())),
            ],
            chunkserver_settings: vec![seconds("close_after", "1s"), seconds("retry_interval", "500ms")],
            ..Shape::default()
        };
        let cluster = Cluster::start_shaped(shape)?;
        let mount = cluster.mount_with(&WORK_OPTIONS)?;
        for actor in 0..ACTORS {
            fs::create_dir(mount.path().join(format!("a{actor}")))?;
        }
        File::open(mount.path())?.sync_all()?;
        Ok(Self {
            cluster,
            plan,
            mount: Some(mount),
            models: vec![Model::default(); ACTORS],
            round: 0,
            problems: Vec::new(),
        })
    }

    /// Everything that was found wrong so far.
    pub fn problems(&self) -> &[Broken] {
        &self.problems
    }

    /// One round. What is wrong with promises is noted, see [`Self::problems`].
    ///
    /// # Errors
    /// If the cluster does not come back.
    #[allow(clippy::print_stdout, reason = "the report of a test")]
    pub fn round(&mut self) -> anyhow::Result<()> {
        let mut random = StdRng::seed_from_u64(self.plan.seed ^ u64::from(self.round) << 32);
        let fault = self.fault();
        let extras = self.extras(fault, &mut random);
        let before = self.cluster.now();
        let problems_before = self.problems.len();
        let verdict = self
            .break_and_judge(fault, extras, &mut random)
            .with_context(|| format!("{} round {}: {fault:?} {extras:?}", self.plan.name, self.round))
            // There is something to look at.
            .inspect_err(|_| self.cluster.guardian().keep())?;
        println!(
            "{} round {}: {fault:?}: {} fsyncs, {} files ({} partly unsynced), {} unsynced names taken, {} problems; {:.1} s",
            self.plan.name,
            self.round,
            verdict.fsyncs,
            verdict.files,
            verdict.files_in_doubt,
            verdict.names_lost,
            self.problems.len() - problems_before,
            self.cluster.now().since(before).as_secs_f64(),
        );
        for Broken { problem, .. } in &self.problems[problems_before..] {
            println!("  {:?}: {}", problem.kind, problem.words);
        }
        self.round += 1;
        Ok(())
    }

    fn fault(&self) -> Fault {
        let block = u64::from(self.round) / self.plan.faults.len() as u64;
        let mut faults = self.plan.faults.clone();
        if !self.plan.in_order {
            faults.shuffle(&mut StdRng::seed_from_u64(self.plan.seed.rotate_left(17) ^ block));
        }
        faults[self.round as usize % faults.len()]
    }

    fn extras(&self, fault: Fault, random: &mut StdRng) -> Extras {
        let any = random.random_range(0..CHUNKSERVERS);
        Extras {
            one_stays_away: (fault == Fault::Everything && random.random_bool(0.4)).then_some(any),
            then_lose: (self.round % 4 == 2).then_some((any + 1) % CHUNKSERVERS),
            check_offline: self.round % 5 == 4,
        }
    }

    fn break_and_judge(&mut self, fault: Fault, extras: Extras, random: &mut StdRng) -> anyhow::Result<Verdict> {
        if self.mount.is_none() {
            self.mount = Some(self.cluster.mount_with(&WORK_OPTIONS)?);
        }
        let mut actors = self.start_actors()?;
        sleep(Duration::from_millis(random.random_range(150..1_200)));
        actors.tell_of_cut()?;
        let sessions_ended = self.sessions_ended_by_losses()?;
        let mut moment = self.inflict(fault, extras, random)?;
        match fault.client_lives() {
            true => {
                sleep(Duration::from_millis(random.random_range(100..600)));
                self.let_finish(&mut actors)?;
            }
            false => actors.kill()?,
        }
        if fault == Fault::Master {
            moment.log_lost = self.sessions_ended_by_losses()? > sessions_ended;
        }
        let found_before = self.mount.as_ref().map(|mount| look(mount.path()));
        let fresh = self.cluster.mount_with(&LOOK_OPTIONS)?;
        let mut found = look(fresh.path());
        let unreadable: Vec<BTreeSet<u64>> = found.iter().map(Found::unreadable).collect();
        if let Some(away) = extras.one_stays_away {
            self.cluster.start_chunkserver(away)?;
            self.cluster.wait_for_volumes(CHUNKSERVERS)?;
            // What no fsync covered may have its only copy there.
            for (found, again) in found.iter_mut().zip(look(fresh.path())) {
                found.take_what_was_unreadable(again);
            }
        }
        if let Some(before) = found_before.filter(|before| *before != found) {
            self.problem(Problem::new(Kind::MountsDiffer, difference(&before, &found)));
        }
        let verdict = self.judge(&actors.journals, fault, moment, (&found, &unreadable))?;
        for (path, _, error) in sync_all(fresh.path(), &found) {
            self.problem(Problem::new(Kind::CannotSync, format!("{}: {error}", path.display())));
        }
        fresh.unmount()?;
        self.hear_of_losses(fault, moment, &found, &verdict);
        self.verify_further(extras, &found)?;
        Ok(verdict)
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        // There is something to look at.
        self.cluster.guardian().keep();
        let (cluster, fault) = (self.plan.name.clone(), self.fault());
        self.problems.push(Broken { cluster, round: self.round, fault, problem });
    }

    // ------------------------------------------------------------ actors

    fn start_actors(&self) -> anyhow::Result<Actors> {
        let journals = self.cluster.folder().join(format!("journals{}", self.round));
        fs::create_dir(&journals)?;
        let root = self.mount.as_ref().context("it is mounted")?.path();
        let child = Command::new(test_program("rfs-test-actor"))
            .arg(root)
            .arg(&journals)
            .arg(ACTORS.to_string())
            .arg((self.plan.seed ^ u64::from(self.round) << 40).to_string())
            .arg((self.round << GENERATION_BITS).to_string())
            .arg(format!("{:?}", self.plan.load))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/")
            .spawn()?;
        self.cluster.guardian().process(child.id());
        Ok(Actors { child, journals })
    }

    fn let_finish(&mut self, actors: &mut Actors) -> anyhow::Result<()> {
        actors.tell("finish");
        let mut ended = None;
        let in_time = self.cluster.wait(FINISH_MAX, || {
            ended = actors.child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) if status.success() => {}
            Some(status) => self.problem(Problem::new(Kind::CallFailed, format!("the actors ended with {status}"))),
            None => {
                ensure!(!in_time, "it waited");
                let words = format!("a call did not end within {} s", FINISH_MAX.as_secs());
                self.problem(Problem::new(Kind::Hangs, words));
                if let Some(mount) = self.mount.take() {
                    mount.kill();
                }
                actors.kill()?;
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ verifying

    /// `unreadable`: files that could not be read at first, while one chunkserver was away.
    fn judge(
        &mut self,
        journals: &Path,
        fault: Fault,
        moment: Moment,
        (found, unreadable): (&[Found], &[BTreeSet<u64>]),
    ) -> anyhow::Result<Verdict> {
        let mut sum = Verdict::default();
        let read = (0..ACTORS).map(|actor| journal::read(&journals.join(actor.to_string())));
        let read = read.collect::<anyhow::Result<Vec<(Vec<Record>, Vec<String>)>>>()?;
        let mut moment = moment;
        moment.note_last_change(read.iter().flat_map(|(records, _)| records));
        let found = found.iter().zip(unreadable);
        for (actor, ((records, violations), (found, unreadable))) in read.into_iter().zip(found).enumerate() {
            let verdict = self.models[actor].judge(&records, fault, moment, (found, unreadable));
            let seen = violations.into_iter().map(|words| Problem::new(Kind::ReadDuringWork, words));
            for problem in seen.chain(verdict.problems.iter().cloned()) {
                self.problem(Problem::new(problem.kind, format!("actor {actor}: {}", problem.words)));
            }
            self.models[actor].settle(found);
            sum.names_lost += verdict.names_lost;
            sum.files += verdict.files;
            sum.files_in_doubt += verdict.files_in_doubt;
            sum.fsyncs += verdict.fsyncs;
            sum.in_doubt.extend(verdict.in_doubt);
        }
        Ok(sum)
    }

    /// Has the mount that lived through the round tell of everything the round took, so that none of it is told in the next one.
    fn hear_of_losses(&mut self, fault: Fault, moment: Moment, found: &[Found], verdict: &Verdict) {
        let Some(mount) = &self.mount else { return };
        let told = sync_all(mount.path(), found);
        for (path, entry, error) in told {
            let inode = if let Entry::File(inode) = entry { inode } else { None };
            let may_be_told = match fault {
                Fault::AllChunkservers => inode.is_some_and(|inode| verdict.in_doubt.contains(&inode)),
                Fault::Master => moment.log_lost,
                Fault::PauseClient => true,
                _ => false,
            };
            if !may_be_told {
                let words = format!("fsync of {} when the round was over: {error}", path.display());
                self.problem(Problem::new(Kind::CallFailed, words));
            }
        }
    }

    /// How many sessions the master has ended so far because its log had lost what they were told.
    fn sessions_ended_by_losses(&self) -> anyhow::Result<usize> {
        Ok(self.cluster.master_log()?.matches("was told what a power cut has taken").count())
    }

    fn verify_further(&mut self, extras: Extras, found: &[Found]) -> anyhow::Result<()> {
        if let Some(lost) = extras.then_lose {
            self.cluster.wait_for_status(IN_TIME, "fully replicated", |status| status["fully_replicated"] == true)?;
            self.cluster.kill_chunkserver(lost);
            let fresh = self.cluster.mount_with(&LOOK_OPTIONS)?;
            let again = look(fresh.path());
            if again != found {
                let words =
                    format!("without chunkserver {lost}, something else is found: {}", difference(found, &again));
                self.problem(Problem::new(Kind::OneCopyDiffers, words));
            }
            fresh.unmount()?;
            self.cluster.start_chunkserver(lost)?;
        }
        if extras.check_offline {
            self.check_offline()?;
        }
        self.cluster.wait_for_volumes(CHUNKSERVERS)
    }

    fn check_offline(&mut self) -> anyhow::Result<()> {
        if let Some(mount) = self.mount.take() {
            mount.unmount()?;
        }
        for index in 0..CHUNKSERVERS {
            self.cluster.stop_chunkserver(index)?;
        }
        self.cluster.stop_master()?;
        let mut check = Command::new(program("mfs-master"));
        self.must_approve(check.arg("check").arg(self.cluster.master_folder()))?;
        for index in 0..CHUNKSERVERS {
            let mut verify = Command::new(program("chunkserver"));
            self.must_approve(verify.arg("verify").arg(self.cluster.chunkserver_folder(index)))?;
        }
        self.cluster.start_everything()
    }

    fn must_approve(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            let words = format!("{command:?} ended with {}: {said}", output.status);
            self.problem(Problem::new(Kind::Offline, words));
        }
        Ok(())
    }
}

/// Syncs everything; what could not be, and why.
fn sync_all(root: &Path, found: &[Found]) -> Vec<(PathBuf, Entry, std::io::Error)> {
    let items = found.iter().enumerate().flat_map(|(actor, found)| {
        let folder = root.join(format!("a{actor}"));
        let all = found.names.iter().map(|(path, entry)| (path.as_str(), *entry)).chain([("", Entry::Folder)]);
        all.map(move |(path, entry)| (folder.join(path), entry))
    });
    let items: Vec<(PathBuf, Entry)> = items.collect();
    let errors = observe::in_parallel(&items, |(path, _)| File::open(path).and_then(|file| file.sync_all()).err());
    items.into_iter().zip(errors).filter_map(|((path, entry), error)| Some((path, entry, error?))).collect()
}

/// The first things that differ, in words.
fn difference(one: &[Found], other: &[Found]) -> String {
    let mut said = Vec::new();
    for (actor, (one, other)) in one.iter().zip(other).enumerate() {
        for (path, entry) in &one.names {
            if other.names.get(path) != Some(entry) {
                said.push(format!("a{actor}/{path} is {entry:?} and {:?}", other.names.get(path)));
            }
        }
        for path in other.names.keys().filter(|path| !one.names.contains_key(*path)) {
            said.push(format!("a{actor}/{path} is in the second only"));
        }
        for (inode, image) in &one.files {
            match (image, other.files.get(inode)) {
                (Ok(one), Some(Ok(other))) if one != other => {
                    let place = (0..one.length()).step_by(512).find(|at| one.read(*at, 512) != other.read(*at, 512));
                    let lengths = (one.length(), other.length());
                    let has = |image: &Image| {
                        let bytes = place.map(|at| image.read(at, 512)).unwrap_or_default();
                        Described { offset: place.unwrap_or(0), bytes: &bytes }.to_string()
                    };
                    let (one, other) = (has(one), has(other));
                    said.push(format!(
                        "file {inode} of a{actor}, lengths {lengths:?}, first at {place:?}: {one}, and {other}"
                    ));
                }
                (Err(error), Some(Ok(_))) => {
                    said.push(format!("file {inode} of a{actor}: first {error}, then readable"));
                }
                (Ok(_), Some(Err(error))) => said.push(format!("file {inode} of a{actor}: readable, then {error}")),
                _ => {}
            }
        }
    }
    said.truncate(6);
    said.join("; ")
}

fn look(root: &Path) -> Vec<Found> {
    let folders: Vec<PathBuf> = (0..ACTORS).map(|actor| root.join(format!("a{actor}"))).collect();
    observe::in_parallel(&folders, |folder| observe::look(folder))
}

impl Actors {
    fn tell(&mut self, order: &str) {
        // If they are gone, their status tells.
        if let Some(input) = self.child.stdin.as_mut() {
            let _ = writeln!(input, "{order}");
        }
    }

    /// They know before anything is lost that only what was synced is promised.
    fn tell_of_cut(&mut self) -> anyhow::Result<()> {
        self.tell("cut");
        let answers = self.child.stdout.as_mut().context("it is a pipe")?;
        let mut answer = [0; 4];
        answers.read_exact(&mut answer).context("the actors ended before anything happened")?;
        ensure!(&answer == b"cut\n", "the actors answer {answer:?}");
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

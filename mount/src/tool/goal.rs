//! `rfs getgoal` and `rfs setgoal`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use rfs_common::endpoint::Endpoint;
use rfs_proto::admin::{GoalRequest, SetGoalProgress, SetGoalRequest, StatusRequest};
use serde_json::{Value, json};

use super::cli::{PathsArguments, SetgoalArguments};
use super::file::{Link, target};
use super::master_link::MasterLink;
use super::output::{Form, complain, print_json, print_table, print_text};

/// `rfs getgoal PATH...`
pub(super) fn getgoal(
    link: Link<'_>,
    named: Option<&Endpoint>,
    arguments: &PathsArguments,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let goal_of = |path: &Path| -> anyhow::Result<u32> {
        let (mut link, target) = target(link, named, path, arguments.from_root)?;
        let request = GoalRequest { inode: target.inode, path: target.path };
        let reply = link
            .call_soon(|mut client| async move { client.get_goal(request).await })
            .with_context(|| format!("cannot tell the goal of {}", path.display()))?;
        Ok(reply.goal)
    };
    let found: Vec<_> = arguments.paths.iter().map(|path| (path, goal_of(path))).collect();
    match form {
        Form::Programs => {
            let document = |(path, goal): &(&PathBuf, anyhow::Result<u32>)| match goal {
                Ok(goal) => json!({ "path": name(path), "goal": goal }),
                Err(error) => failure(path, error),
            };
            print_json(&found.iter().map(document).collect::<Vec<_>>())?;
        }
        Form::People => {
            let row = |(path, goal): &(&PathBuf, anyhow::Result<u32>)| {
                Some(vec![goal.as_ref().ok()?.to_string(), path.display().to_string()])
            };
            print_table(&["goal", "path"], found.iter().filter_map(row).collect(), "")?;
        }
    }
    Ok(exit_code(found.iter().filter_map(|(_, goal)| goal.as_ref().err())))
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What stands for a path about which nothing could be told or done.
fn failure(path: &Path, error: &anyhow::Error) -> Value {
    json!({ "path": name(path), "error": format!("{error:#}") })
}

/// Says what went wrong with some paths; the others were gone on with.
fn exit_code<'a>(errors: impl Iterator<Item = &'a anyhow::Error>) -> ExitCode {
    errors.fold(ExitCode::SUCCESS, |_, error| {
        complain(&format!("rfs: {error:#}"));
        ExitCode::FAILURE
    })
}

/// `rfs setgoal [-r] GOAL PATH...`
pub(super) fn setgoal(
    link: Link<'_>,
    named: Option<&Endpoint>,
    arguments: &SetgoalArguments,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for path in &arguments.paths.paths {
        match set_goal_of(link, named, arguments, path, form) {
            Ok(last) => {
                documents.push(json!({ "path": name(path), "changed": last.changed, "seen": last.seen }));
            }
            Err(error) => {
                documents.push(failure(path, &error));
                errors.push(error);
            }
        }
    }
    if form == Form::Programs {
        print_json(&documents)?;
    }
    Ok(exit_code(errors.iter()))
}

fn set_goal_of(
    link: Link<'_>,
    named: Option<&Endpoint>,
    arguments: &SetgoalArguments,
    path: &Path,
    form: Form,
) -> anyhow::Result<SetGoalProgress> {
    let (mut link, target) = target(link, named, path, arguments.paths.from_root)?;
    let request = SetGoalRequest {
        inode: target.inode,
        path: target.path,
        goal: u32::from(arguments.goal),
        recursive: arguments.recursive,
    };
    let last =
        follow(&mut link, request, form).with_context(|| format!("cannot set the goal of {}", path.display()))?;
    warn_if_unreachable(&mut link, arguments.goal)?;
    if form == Form::People {
        print_text(&format!(
            "{}: goal {} ({} of {} changed)",
            path.display(),
            arguments.goal,
            last.changed,
            last.seen
        ))?;
    }
    Ok(last)
}

/// A goal above the number of chunkservers is kept and cannot be met.
fn warn_if_unreachable(link: &mut MasterLink, goal: u8) -> anyhow::Result<()> {
    let status = link.call_soon(|mut client| async move { client.get_status(StatusRequest {}).await })?;
    if u32::from(goal) > status.servers_known {
        complain(&format!(
            "rfs: goal {goal} needs as many chunkservers, and {} known; copies are missing until more are added",
            if status.servers_known == 1 { "1 is".to_owned() } else { format!("{} are", status.servers_known) }
        ));
    }
    Ok(())
}

/// Shows the progress of a long change and gives its end.
fn follow(link: &mut MasterLink, request: SetGoalRequest, form: Form) -> anyhow::Result<SetGoalProgress> {
    let mut stream = link.call(|mut client| async move { client.set_goal(request).await })?;
    let bar = if form == Form::People { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let mut last = SetGoalProgress::default();
    while let Some(progress) = link.next(&mut stream)? {
        bar.set_message(format!("{} files and folders seen, {} changed", progress.seen, progress.changed));
        bar.tick();
        last = progress;
    }
    bar.finish_and_clear();
    anyhow::ensure!(
        last.done,
        "the master ended before it was done; run the command again, it goes on where it is needed"
    );
    Ok(last)
}

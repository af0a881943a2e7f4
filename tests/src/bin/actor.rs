//! Actors of the power-cut test, one thread each: see `rfs_tests::power`.
//!
//! `rfs-test-actor ROOT JOURNALS ACTORS SEED GENERATION LOAD`: actor N works in ROOT/aN and keeps JOURNALS/N. It reads `cut`, which
//! it repeats on its standard output, and `finish` from its standard input, and ends when all actors have finished, or when its
//! input does.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use rfs_tests::power::actor::{Actor, Control, Load};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, journals, actors, seed, generation, load] = &arguments[..] else { anyhow::bail!("six arguments") };
    let load: Load = load.parse()?;
    let (actors, seed, generation): (u64, u64, u32) = (actors.parse()?, seed.parse()?, generation.parse()?);
    let control = Arc::new(Control::default());
    let threads = (0..actors)
        .map(|number| {
            let root = Path::new(root).join(format!("a{number}"));
            let journal = Path::new(journals).join(number.to_string());
            let control = Arc::clone(&control);
            std::thread::Builder::new()
                .name(format!("actor {number}"))
                .spawn(move || {
                    Actor::new(&root, &journal, seed ^ number, generation, load, control).map(|mut actor| actor.run())
                })
                .context("a thread")
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "cut" => {
                control.cut.store(true, Ordering::SeqCst);
                std::io::stdout().write_all(b"cut\n")?;
            }
            "finish" => break,
            other => anyhow::bail!("not an order: {other}"),
        }
    }
    control.finish.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("an actor panicked"))??;
    }
    Ok(())
}

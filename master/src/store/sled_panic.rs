//! The last words of a master over whose pages sled ends the process, which it does over some damage instead of returning an
//! error: they name the file and the place, and what to do, where otherwise a place in sled's source would stand.

use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use super::Finding;
use super::anchor::shown;
use super::sled_survey::{Depth, survey};

/// As panics name the files of sled's source.
const SLED_SOURCE: &str = "/sled-0.";
/// As after every other refusal to open metadata.
const STATUS: i32 = 1;

const AGAIN: &str = "start it again; if that lasts, see what `mfs-master check` says";

static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Has the process end so from now on. The folder is the one that sled opens.
pub(crate) fn prepare(folder: &Path) {
    *FOLDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|location| location.file().contains(SLED_SOURCE)) {
                end(info);
            }
            before(info);
        }));
    });
}

fn end(info: &PanicHookInfo<'_>) {
    // Nobody holds this lock for long, but the process is not to hang over it.
    let Ok(folder) = FOLDER.try_lock() else { return };
    let Some(folder) = folder.as_ref() else { return };
    let found = survey(folder, Depth::Everything, &mut |_| {}).unwrap_or_default();
    let named = |words: &str, Finding { file, offset, what }: &Finding| {
        format!("{} {words} at byte {offset}: {what}", shown(file))
    };
    // What a crash leaves is suspect, too: only what sled needs and cannot have is damage.
    let damage = found.fatal.as_ref().or(found.broken.first());
    let (place, advice) = match (damage, found.suspects.first()) {
        (Some(damage), _) => {
            (named("is damaged", damage), "restore the metadata from an export with `mfs-master restore`")
        }
        (None, Some(suspect)) => (named("is not whole", suspect), AGAIN),
        (None, None) => ("no place is seen that is not whole".to_owned(), AGAIN),
    };
    let said = payload_of(info).replace('\n', " ");
    let folder = shown(folder);
    let _ = writeln!(
        std::io::stderr(),
        "the metadata pages in {folder}: sled gave up; {place}; {advice} (sled's words: {said})"
    );
    std::process::exit(STATUS);
}

fn payload_of<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("none")
}

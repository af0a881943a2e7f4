//! The scrub's record as its first version has it.

use super::*;

#[test]
fn a_record_of_the_first_version_is_read_and_written_the_same() {
    let golden = include_str!("golden/scrub-v1.toml");
    let record: Record = toml::from_str(golden).unwrap();
    assert_eq!(record, Record { started: 1_763_700_000, completed: 1_763_600_000, next: 4096, found: 3 });
    assert_eq!(toml::to_string(&record).unwrap(), golden);
}

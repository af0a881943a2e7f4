//! Where records come from: the store, and in tests a map in memory.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{PoisonError, RwLock};

pub use crate::store::{Change, Store, StoreError, Table};

/// Called with each key and value of a scan, in the order of the keys, until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads records.
pub trait Source: Send + Sync {
    /// The value of a record.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the records of a table between two keys, in order.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

impl Source for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Store::get(self, table, key)
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        Store::scan(self, table, from, to, visit)
    }
}

/// Records in memory: for tests, and to check an export without a store.
#[derive(Debug, Default)]
pub struct MemorySource {
    tables: RwLock<BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl MemorySource {
    /// Applies changes in order.
    pub fn apply(&self, changes: &[Change]) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Put { table, key, value } => {
                    tables.entry(*table).or_default().insert(key.clone(), value.clone());
                }
                Change::Delete { table, key } => {
                    tables.entry(*table).or_default().remove(key);
                }
            }
        }
    }
}

impl Source for MemorySource {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(&table).and_then(|records| records.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(records) = tables.get(&table) else { return Ok(()) };
        for (key, value) in records.range::<[u8], _>((from, to)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

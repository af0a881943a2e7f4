//! One copy of one chunk as a file: its format, and every change and reading of it.

pub mod format;

pub mod fault;

pub mod copy;

pub mod change;

pub mod check;

pub mod holes;

pub mod on_disk;

#[cfg(test)]
mod golden_test;

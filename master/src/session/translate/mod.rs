//! Between the messages of the metadata session and the operations of the namespace.

//! rfs chunkserver.

//! What one worker thread owns.
pub mod context;

//! What has been read and is not used yet.

/// The bytes just read, consumed as events are taken. Frames are unmasked in it.
#[derive(Debug)]
pub struct Input<'a> {
    pub(super) chunk: &'a mut [u8],
    pub(super) pos: usize,
    /// Frames that were found.
    pub(super) frames: u32,
}

impl<'a> Input<'a> {
    /// All of these bytes, none used yet. `&mut []` resumes a connection whose bytes were kept.
    pub fn new(chunk: &'a mut [u8]) -> Input<'a> {
        Input { chunk, pos: 0, frames: 0 }
    }

    /// The bytes that nobody has taken yet.
    pub fn rest(&self) -> &[u8] {
        &self.chunk[self.pos..]
    }

    /// How many frames were found in it since this was last asked: fragments and control frames, too.
    pub fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    pub(super) fn take(&mut self, most: usize) -> &[u8] {
        let start = self.pos;
        self.pos = self.chunk.len().min(start.saturating_add(most));
        &self.chunk[start..self.pos]
    }
}

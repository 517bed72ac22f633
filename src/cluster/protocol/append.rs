//! How values become bytes.

use serde::Serialize;

/// Appends what a value is as bytes. Writing to memory can't fail.
pub(super) fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    struct Into<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Into<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    let written = postcard::serialize_with_flavor(value, Into(out));
    debug_assert!(written.is_ok(), "{written:?}");
}

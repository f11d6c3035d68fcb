//! Values that there is no room for in memory, in a file that is read as mapped memory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// Bytes of a value.
const VALUE: usize = size_of::<f32>();

/// A file without a name, which is gone when the process is.
pub(super) struct Spill {
    file: File,
    length: u64,
}

/// Rows of values within the file.
pub(super) struct Mapped {
    bytes: Mmap,
    /// Where each row ends, in bytes.
    ends: Vec<usize>,
}

impl Spill {
    /// # Errors
    /// The system's, where no file can be made in the folder.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(Self { file, length: 0 })
    }

    /// Adds rows, and maps them in.
    ///
    /// # Errors
    /// The system's, as on a full disk.
    pub(super) fn append(&mut self, rows: &[Vec<f32>]) -> io::Result<Mapped> {
        let mut ends = Vec::with_capacity(rows.len());
        let mut bytes = Vec::with_capacity(rows.iter().map(|row| row.len() * VALUE).sum());
        for row in rows {
            row.iter()
                .for_each(|value| bytes.extend_from_slice(&value.to_ne_bytes()));
            ends.push(bytes.len());
        }
        self.file.write_all(&bytes)?;
        let start = self.length;
        self.length += bytes.len() as u64;
        let mut options = MmapOptions::new();
        // SAFETY: no other process can open the file, which has no name, and what is written here
        // comes after what is mapped.
        #[expect(
            unsafe_code,
            reason = "the system then decides which values stay in memory"
        )]
        let bytes = unsafe { options.offset(start).len(bytes.len()).map(&self.file) }?;
        Ok(Mapped { bytes, ends })
    }
}

impl Mapped {
    /// Copies a row to the start of `slot`.
    pub(super) fn read(&self, row: usize, slot: &mut [f32]) {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        let values = self.bytes[start..self.ends[row]].chunks_exact(VALUE);
        for (slot, bytes) in slot.iter_mut().zip(values) {
            *slot = f32::from_ne_bytes(bytes.try_into().expect("chunks have the bytes of a value"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spill;

    #[test]
    fn rows_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::in_folder(folder.path()).unwrap();
        let chunks = [
            vec![vec![1.5, -2.0, 3.25], vec![f32::MIN_POSITIVE]],
            vec![vec![7.0, 8.0]],
        ];
        let mapped = chunks.each_ref().map(|rows| spill.append(rows).unwrap());
        for (rows, mapped) in chunks.iter().zip(&mapped) {
            for (place, row) in rows.iter().enumerate() {
                let mut slot = [-1.0; 4];
                mapped.read(place, &mut slot);
                assert_eq!(&slot[..row.len()], row.as_slice());
                assert!(slot[row.len()..].iter().all(|value| *value == -1.0));
            }
        }
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0, "the file has no name");
    }
}

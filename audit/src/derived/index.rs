//! The subject index: which entries touch a subject.

use super::{Built, Derived};
use crate::error::Result;
use crate::format::Head;
use crate::merkle::Hash;
use crate::read::{open_subjects, open_touched};
use crate::subjects::{BLOCK_ENTRIES, Block, MAX_BLOCK_BYTES, open_block, seal_block};
use crate::tiles::{Batch, block_path, read_limited};

impl Derived {
    /// All entries before `head` that touch the subject, ascending.
    pub(crate) fn entries_touching(&self, head: &Head, subject: u32) -> Result<Vec<u64>> {
        let mut built = self.built.lock();
        self.current(&mut built, head)?;
        self.index_up_to(&mut built, head.size)?;
        let full = built.indexed / BLOCK_ENTRIES;
        let mut found = Vec::new();
        for number in 0..full {
            let block = self.block(&mut built, number)?;
            self.touching(number, &block, subject, &mut found)?;
        }
        self.touching(full, &built.block, subject, &mut found)?;
        Ok(found)
    }

    fn touching(
        &self,
        number: u64,
        block: &Block,
        subject: u32,
        found: &mut Vec<u64>,
    ) -> Result<()> {
        let start = number * BLOCK_ENTRIES;
        let from = found.len();
        found.extend(
            block
                .narrow(subject)
                .into_iter()
                .map(|offset| start + u64::from(offset)),
        );
        for offset in &block.wide {
            let index = start + u64::from(*offset);
            let mut entry = self.journal.entries(index..index + 1, &self.keys);
            if entry
                .next_with(|raw| open_subjects(&raw).map(|subjects| subjects.contains(subject)))?
                == Some(true)
            {
                found.push(index);
            }
        }
        if let Some(new) = found.get_mut(from..) {
            new.sort_unstable();
        }
        Ok(())
    }

    /// Reads the growing block up to `size`, which lies in it or at its end. It is not read before it is needed: a
    /// process that only appends some entries does not pay for it.
    pub(super) fn index_up_to(&self, built: &mut Built, size: u64) -> Result<()> {
        let mut entries = self.journal.entries(built.indexed..size, &self.keys);
        while built.indexed < size {
            let Some(touched) = entries.next_with(|raw| open_touched(&raw))? else {
                break;
            };
            built.block.add(built.indexed, &touched);
            built.indexed += 1;
        }
        Ok(())
    }

    /// Writes the block that ends with the entry before `built.next`, and begins the next one.
    pub(super) fn finish_block(&self, built: &mut Built, batch: &mut Batch<'_>) -> Result<()> {
        let end = built.next;
        self.index_up_to(built, end)?;
        let plain = std::mem::take(&mut built.block).encode();
        self.write_block(batch, end / BLOCK_ENTRIES - 1, &built.last, &plain)
    }

    fn write_block(
        &self,
        batch: &mut Batch<'_>,
        number: u64,
        last: &Hash,
        plain: &[u8],
    ) -> Result<()> {
        batch.write(
            block_path(number),
            &seal_block(&self.keys.index_key()?, number, last, plain)?,
        )
    }

    /// A full block; built again from the journal when it is missing or torn.
    fn block(&self, built: &mut Built, number: u64) -> Result<Block> {
        let range = number * BLOCK_ENTRIES..(number + 1) * BLOCK_ENTRIES;
        let last = self.node(built, 0, range.end - 1)?;
        let path = block_path(number);
        let key = self.keys.index_key()?;
        let stored = read_limited(&self.journal.dir().join(&path), MAX_BLOCK_BYTES)
            .ok()
            .and_then(|file| open_block(&key, number, &last, &file))
            .and_then(|plain| Block::decode(&plain));
        if let Some(block) = stored {
            return Ok(block);
        }
        tracing::warn!(path = %path.display(), "audit log: subject index was missing or torn; written again");
        let mut block = Block::default();
        let mut entries = self.journal.entries(range.clone(), &self.keys);
        for index in range {
            let Some(touched) = entries.next_with(|raw| open_touched(&raw))? else {
                break;
            };
            block.add(index, &touched);
        }
        let mut batch = Batch::new(self.journal.dir());
        let plain = block.encode();
        self.write_block(&mut batch, number, &last, &plain)?;
        batch.sync()?;
        Ok(block)
    }
}

//! An allocator that counts what the current thread holds, and how much that was at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that are held, and the most since [`begin`]. A thread may free what another has allocated.
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

/// More than this is refused, which ends the program: a machine should survive what is looked for here.
const MOST: i64 = 2 << 30;

/// The system's allocator with a count.
pub struct Counting;

/// Counts a change; false where there would be too much.
fn count(change: i64) -> bool {
    // There is no counter while a thread ends.
    HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now + change;
        held.set((now, most.max(now)));
        now < MOST
    })
    .unwrap_or(true)
}

#[expect(unsafe_code, reason = "an allocator is unsafe; this one only counts what it hands on")]
// SAFETY: every call is handed on to the system's allocator with the same arguments, or is refused with null.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if count(layout.size().cast_signed() as i64) {
            unsafe { System.alloc(layout) }
        } else {
            std::ptr::null_mut()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if count(layout.size().cast_signed() as i64) {
            unsafe { System.alloc_zeroed(layout) }
        } else {
            std::ptr::null_mut()
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size().cast_signed() as i64));
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if count(size.cast_signed() as i64 - layout.size().cast_signed() as i64) {
            unsafe { System.realloc(memory, layout, size) }
        } else {
            std::ptr::null_mut()
        }
    }
}

/// Begins to watch this thread.
pub fn begin() {
    HELD.with(|held| held.set((0, 0)));
}

/// The most bytes that the thread held since [`begin`], beyond what it held then.
pub fn most() -> u64 {
    HELD.with(|held| held.get().1.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_count_is_kept() {
        let before = vec![1_u8; 1000];
        begin();
        drop(vec![1_u8; 3_000_000]);
        let kept = vec![1_u8; 1_000_000];
        drop(before);
        assert!((3_000_000..3_100_000).contains(&most()), "{}", most());
        drop(kept);
    }
}

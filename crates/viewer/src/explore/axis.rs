//! The axis that all views over noise share: one column a step.

use egui::Rangef;

/// Columns from left to right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) left: f32,
    pub(super) right: f32,
    /// Columns, at least 1.
    pub(super) steps: usize,
}

impl Axis {
    pub(super) fn new(left: f32, right: f32, steps: usize) -> Self {
        Self { left, right, steps: steps.max(1) }
    }

    /// Width of a column.
    pub(super) fn column(self) -> f32 {
        (self.right - self.left) / self.steps as f32
    }

    /// Left edge of a column.
    pub(super) fn x(self, step: usize) -> f32 {
        self.left + step as f32 * self.column()
    }

    /// Middle of a column.
    pub(super) fn middle(self, step: usize) -> f32 {
        self.x(step) + self.column() / 2.0
    }

    /// From one edge of a column to the other.
    pub(super) fn span(self, step: usize) -> Rangef {
        Rangef::new(self.x(step), self.x(step + 1))
    }

    /// The column at a place; none beside the axis.
    pub(super) fn step_at(self, x: f32) -> Option<usize> {
        let step = (x - self.left) / self.column();
        (step >= 0.0 && step < self.steps as f32).then_some(step as usize)
    }

    /// The nearest column.
    pub(super) fn nearest(self, x: f32) -> usize {
        let step = ((x - self.left) / self.column()).max(0.0) as usize;
        step.min(self.steps - 1)
    }

    /// Columns far enough apart for things of this width, the first and every n-th after it.
    pub(super) fn spread(self, width: f32) -> Vec<usize> {
        let every = (width / self.column()).ceil().max(1.0) as usize;
        (0..self.steps).step_by(every).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_where_they_lie() {
        let axis = Axis::new(86.0, 656.0, 10);
        assert_eq!((axis.column(), axis.x(3), axis.middle(0)), (57.0, 257.0, 114.5));
        for step in 0..10 {
            assert_eq!(axis.step_at(axis.middle(step)), Some(step));
        }
        assert_eq!((axis.step_at(85.0), axis.step_at(656.0)), (None, None));
        assert_eq!((axis.nearest(0.0), axis.nearest(1e4)), (0, 9));
        assert_eq!(axis.spread(57.0).len(), 10);
        assert_eq!(axis.spread(100.0), [0, 2, 4, 6, 8]);
        assert_eq!(Axis::new(0.0, 100.0, 250).spread(50.0), [0, 125]);
    }
}

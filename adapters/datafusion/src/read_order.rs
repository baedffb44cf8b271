//! [`ReadOrder`]: predicts which row group is read next.

/// Mispredictions in a file after which nothing is fetched ahead of it any more.
const MOST_MISPREDICTIONS: u32 = 2;

/// The order in which a reader reads the row groups of a file: forward or backward, and perhaps not all of
/// them.
#[derive(Debug, Default)]
pub(crate) struct ReadOrder {
    current: Option<usize>,
    backward: bool,
    read: usize,
    mispredictions: u32,
}

/// How the next row group was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The same row group as before.
    Same,
    /// The first one that is read.
    First,
    /// The one that was predicted.
    Predicted,
    /// Another one.
    Other,
}

impl ReadOrder {
    /// Notes that the row group at `position` of `len` is read.
    pub(crate) fn step(&mut self, position: usize, len: usize) -> Step {
        if self.current == Some(position) {
            return Step::Same;
        }
        let predicted = self.ahead(1, len);
        let before = self.current.replace(position);
        self.read += 1;
        let Some(before) = before else {
            self.backward = position > 0 && position + 1 == len;
            return Step::First;
        };
        if predicted == Some(position) {
            return Step::Predicted;
        }
        self.mispredictions += 1;
        self.backward = position < before;
        Step::Other
    }

    /// The position of the row group that is read `distance` after the current one.
    pub(crate) fn ahead(&self, distance: usize, len: usize) -> Option<usize> {
        let current = self.current?;
        match self.backward {
            true => current.checked_sub(distance),
            false => current.checked_add(distance).filter(|&next| next < len),
        }
    }

    /// Whether the row group at `position` is the current one, or still to come.
    pub(crate) fn is_to_come(&self, position: usize) -> bool {
        match (self.current, self.backward) {
            (None, _) => true,
            (Some(current), true) => position <= current,
            (Some(current), false) => position >= current,
        }
    }

    /// Whether it goes from the last row group to the first.
    pub(crate) fn is_backward(&self) -> bool {
        self.backward
    }

    /// Number of row groups that were read.
    pub(crate) fn read(&self) -> usize {
        self.read
    }

    pub(crate) fn is_predictable(&self) -> bool {
        self.mispredictions < MOST_MISPREDICTIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_from_the_first_row_group_goes_forward() {
        let mut order = ReadOrder::default();
        assert_eq!(order.step(0, 3), Step::First);
        assert_eq!((order.ahead(1, 3), order.ahead(3, 3)), (Some(1), None));
        assert_eq!(order.step(0, 3), Step::Same);
        assert_eq!(order.step(1, 3), Step::Predicted);
        assert!(!order.is_to_come(0) && order.is_to_come(1) && order.is_to_come(2));
        assert_eq!(order.read(), 2);
    }

    #[test]
    fn a_scan_from_the_last_row_group_goes_backward() {
        let mut order = ReadOrder::default();
        assert_eq!(order.step(2, 3), Step::First);
        assert_eq!(order.ahead(1, 3), Some(1));
        assert_eq!(order.step(1, 3), Step::Predicted);
        assert!(order.is_to_come(0) && !order.is_to_come(2));
        assert_eq!(order.ahead(2, 3), None);
    }

    #[test]
    fn leaps_end_the_prediction() {
        let mut order = ReadOrder::default();
        order.step(1, 9);
        assert_eq!(order.step(5, 9), Step::Other);
        assert!(order.is_predictable());
        assert_eq!(order.step(3, 9), Step::Other);
        assert!(!order.is_predictable());
    }
}

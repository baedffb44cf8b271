//! [`FairQueue`]: the order in which requests of several groups go on.

use std::collections::{BTreeMap, BTreeSet};

/// The waiting items of several flows, ordered by start-time fair queueing with depth, SFQ(D).
///
/// An item has a *start tag*: the virtual time at its arrival, or the *finish tag* of the item before it in its
/// flow, whichever is later. Its finish tag is its start tag plus its cost divided by the weight of its flow. The
/// item with the earliest start tag goes next, and its start tag is the virtual time from then on. Where `D`
/// items may be in progress, the order is the same; each one that ends lets the next go.
///
/// While two flows have items waiting, the costs of what they dispatch, each divided by its weight, differ by at
/// most one item of each flow, in every interval. A flow that was idle has no claim on the past.
///
/// - P. Goyal, H. Vin, H. Cheng: *Start-time fair queueing: a scheduling algorithm for integrated services packet
///   switching networks*, SIGCOMM 1996.
/// - W. Jin, J. Chase, J. Kaur: *Interposed proportional sharing for a storage service utility*, SIGMETRICS 2004.
///
/// Items of a flow go in the order of arrival, so only the first item of a flow needs a tag. A new weight counts
/// from the next item on.
#[derive(Debug)]
pub(super) struct FairQueue<F, I> {
    /// By [`FlowId`].
    flows: Vec<Option<Flow<F, I>>>,
    /// Flows with waiting items, by the start tag of the first item.
    backlogged: BTreeSet<(Tag, FlowId)>,
    virtual_time: Tag,
    /// The latest finish tag of all flows.
    last_finish: Tag,
    /// Flows that were removed before the virtual time had reached their tags.
    removed: Vec<(F, Tag)>,
    len: usize,
    next_position: u64,
}

/// Virtual time: cost divided by weight. 128 bits do not overflow.
type Tag = u128;

/// Precision of the division by a weight: a cost of 1 at the weight 10,000 is 100 units.
const SCALE: Tag = 1_000_000;

pub(super) type FlowId = usize;

#[derive(Debug)]
struct Flow<F, I> {
    data: F,
    /// Start tag of the first waiting item. Without one: the finish tag of the last item.
    tag: Tag,
    /// By position.
    waiting: BTreeMap<u64, I>,
    /// The first item was held back, so the flow had no claim on what others used meanwhile.
    held_back: bool,
}

/// Whether an item may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes. Its flow is charged.
    Go { cost: u64, weight: u32 },
    /// It goes, and was charged before.
    GoAgain,
    /// Its flow has to wait: for a limit, or for an item that has gone before.
    HoldBack,
}

impl<F, I> FairQueue<F, I> {
    pub(super) fn new() -> FairQueue<F, I> {
        FairQueue {
            flows: Vec::new(),
            backlogged: BTreeSet::new(),
            virtual_time: 0,
            last_finish: 0,
            removed: Vec::new(),
            len: 0,
            next_position: 0,
        }
    }

    /// Number of waiting items.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a flow. If `is_same` finds it among the removed ones, it goes on with its old tag: it must not gain
    /// from its removal.
    pub(super) fn add_flow(&mut self, data: F, is_same: impl Fn(&F) -> bool) -> FlowId {
        let known = self.removed.iter().filter(|(data, _)| is_same(data));
        let tag = known.map(|&(_, tag)| tag).max().unwrap_or(0);
        let flow = Flow {
            data,
            tag: tag.max(self.virtual_time),
            waiting: BTreeMap::new(),
            held_back: false,
        };
        let free = self.flows.iter().position(Option::is_none);
        let id = free.unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() - 1
        });
        self.flows[id] = Some(flow);
        id
    }

    /// Removes a flow. Returns its waiting items.
    pub(super) fn remove_flow(
        &mut self,
        id: FlowId,
    ) -> Option<impl Iterator<Item = I> + use<F, I>> {
        let flow = self.flows.get_mut(id)?.take()?;
        self.backlogged.remove(&(flow.tag, id));
        self.len -= flow.waiting.len();
        self.removed.push((flow.data, flow.tag));
        Some(flow.waiting.into_values())
    }

    /// Takes the data of removed flows that have no more to lose than a new flow.
    pub(super) fn take_removed(&mut self) -> Vec<F> {
        let removed = std::mem::take(&mut self.removed).into_iter();
        let (past, left): (Vec<_>, _) = removed.partition(|&(_, tag)| tag <= self.virtual_time);
        self.removed = left;
        past.into_iter().map(|(data, _)| data).collect()
    }

    pub(super) fn flow(&mut self, id: FlowId) -> Option<&mut F> {
        Some(&mut self.flows.get_mut(id)?.as_mut()?.data)
    }

    pub(super) fn flows_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.flows.iter_mut().flatten().map(|flow| &mut flow.data)
    }

    /// Adds an item at the end of its flow. Returns its position in the flow.
    pub(super) fn push(&mut self, id: FlowId, item: I) -> u64 {
        let position = self.next_position;
        self.next_position += 1;
        self.insert(id, position, item);
        position
    }

    /// Adds an item at a position that it had before.
    pub(super) fn insert(&mut self, id: FlowId, position: u64, item: I) {
        let Some(Some(flow)) = self.flows.get_mut(id) else {
            return debug_assert!(false, "an item has a flow");
        };
        if flow.waiting.is_empty() {
            flow.tag = flow.tag.max(self.virtual_time);
            flow.held_back = false;
            self.backlogged.insert((flow.tag, id));
        }
        flow.waiting.insert(position, item);
        self.len += 1;
    }

    /// Removes an item that no longer waits.
    pub(super) fn remove(&mut self, id: FlowId, position: u64) -> Option<I> {
        let flow = self.flows.get_mut(id)?.as_mut()?;
        let item = flow.waiting.remove(&position)?;
        self.len -= 1;
        if flow.waiting.is_empty() {
            self.backlogged.remove(&(flow.tag, id));
        }
        Some(item)
    }

    /// Removes all items, in order for each flow.
    pub(super) fn take_all(&mut self, mut taken: impl FnMut(&mut F, I)) {
        self.backlogged.clear();
        self.len = 0;
        for flow in self.flows.iter_mut().flatten() {
            let waiting = std::mem::take(&mut flow.waiting);
            waiting
                .into_values()
                .for_each(|item| taken(&mut flow.data, item));
        }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &I> {
        let flows = self.flows.iter().flatten();
        flows.flat_map(|flow| flow.waiting.values())
    }

    /// Charges a flow for an item that goes at once, because nothing waits.
    pub(super) fn charge(&mut self, id: FlowId, cost: u64, weight: u32) {
        if let Some(Some(flow)) = self.flows.get_mut(id) {
            let start = flow.tag.max(self.virtual_time);
            self.virtual_time = start;
            flow.tag = start + duration(cost, weight);
            self.last_finish = self.last_finish.max(flow.tag);
        }
    }

    /// Removes the next item that `judge` lets go.
    pub(super) fn pop(&mut self, mut judge: impl FnMut(&mut F, &I) -> Verdict) -> Option<I> {
        let mut gone = None;
        for &(tag, id) in &self.backlogged {
            let Some(Some(flow)) = self.flows.get_mut(id) else {
                continue;
            };
            let Some(first) = flow.waiting.values().next() else {
                continue;
            };
            match judge(&mut flow.data, first) {
                Verdict::HoldBack => flow.held_back = true,
                verdict => {
                    gone = Some((tag, id, verdict));
                    break;
                }
            }
        }
        let (tag, id, verdict) = gone?;
        self.backlogged.remove(&(tag, id));
        let flow = self.flows.get_mut(id)?.as_mut()?;
        let (_, item) = flow.waiting.pop_first()?;
        self.len -= 1;
        if std::mem::take(&mut flow.held_back) {
            flow.tag = tag.max(self.virtual_time);
        }
        if let Verdict::Go { cost, weight } = verdict {
            self.virtual_time = self.virtual_time.max(flow.tag);
            flow.tag += duration(cost, weight);
            self.last_finish = self.last_finish.max(flow.tag);
        }
        if !flow.waiting.is_empty() {
            self.backlogged.insert((flow.tag, id));
        }
        Some(item)
    }

    /// Forgets the past: nothing waits, and nothing is in progress.
    pub(super) fn end_busy_period(&mut self) {
        self.virtual_time = self.last_finish;
    }
}

fn duration(cost: u64, weight: u32) -> Tag {
    Tag::from(cost) * SCALE / Tag::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Item {
        flow: FlowId,
        number: u64,
        cost: u64,
    }

    /// Lets everything go, at the weight that is the data of the flow.
    fn pass(weight: &mut u32, item: &Item) -> Verdict {
        Verdict::Go {
            cost: item.cost,
            weight: *weight,
        }
    }

    fn queue(weights: &[u32]) -> FairQueue<u32, Item> {
        let mut queue = FairQueue::new();
        for (id, &weight) in weights.iter().enumerate() {
            assert_eq!(queue.add_flow(weight, |_| false), id);
        }
        queue
    }

    fn push(queue: &mut FairQueue<u32, Item>, flow: FlowId, number: u64, cost: u64) {
        queue.push(flow, Item { flow, number, cost });
    }

    #[test]
    fn flows_share_in_proportion_to_their_weights() {
        let mut queue = queue(&[1, 4, 5]);
        for number in 0..1000 {
            (0..3).for_each(|flow| push(&mut queue, flow, number, 10));
        }
        let mut counts = [0; 3];
        for _ in 0..1000 {
            counts[queue.pop(pass).unwrap().flow] += 1;
        }
        for (count, weight) in counts.into_iter().zip([1, 4, 5]) {
            assert!((count - weight * 100_i32).abs() <= 2, "{counts:?}");
        }
    }

    #[test]
    fn larger_items_go_less_often() {
        let mut queue = queue(&[100, 100]);
        for number in 0..1000 {
            push(&mut queue, 0, number, 10);
            push(&mut queue, 1, number, 90);
        }
        let small = (0..1000).filter(|_| queue.pop(pass).unwrap().flow == 0);
        assert!((898..=902).contains(&small.count()));
    }

    #[test]
    fn an_idle_flow_saves_up_nothing() {
        let mut queue = queue(&[100, 100]);
        for number in 0..200 {
            push(&mut queue, 0, number, 10);
        }
        for _ in 0..100 {
            queue.pop(pass).unwrap();
        }
        for number in 0..100 {
            push(&mut queue, 1, number, 10);
        }
        let first = (0..100).filter(|_| queue.pop(pass).unwrap().flow == 0);
        assert!((49..=51).contains(&first.count()));
    }

    #[test]
    fn a_flow_that_was_held_back_saves_up_nothing() {
        let mut queue = queue(&[100, 100]);
        for number in 0..300 {
            push(&mut queue, 0, number, 10);
            push(&mut queue, 1, number, 10);
        }
        let hold_back_0 = |weight: &mut u32, item: &Item| match item.flow {
            0 => Verdict::HoldBack,
            _ => pass(weight, item),
        };
        for _ in 0..100 {
            assert_eq!(queue.pop(hold_back_0).unwrap().flow, 1);
        }
        let first = (0..100).filter(|_| queue.pop(pass).unwrap().flow == 0);
        assert!((49..=51).contains(&first.count()));
    }

    #[test]
    fn a_flow_that_used_spare_capacity_is_not_punished_for_it() {
        let mut queue = queue(&[1, 10_000]);
        for _ in 0..1000 {
            queue.charge(0, 1 << 20, 1); // nothing else wanted it
        }
        for number in 0..10 {
            push(&mut queue, 1, number, 10);
            push(&mut queue, 0, number, 10);
        }
        let first = (0..10).filter(|_| queue.pop(pass).unwrap().flow == 0);
        assert_eq!(first.count(), 0, "only the last item counts");
        queue.take_all(|_, _| ());
        queue.end_busy_period();
        push(&mut queue, 0, 0, 10);
        push(&mut queue, 1, 0, 10);
        let order = [queue.pop(pass).unwrap().flow, queue.pop(pass).unwrap().flow];
        assert_eq!(order, [0, 1], "nor after a pause for any");
    }

    #[test]
    fn a_new_weight_counts_from_the_next_item_on() {
        let mut queue = queue(&[1, 1]);
        for number in 0..1000 {
            (0..2).for_each(|flow| push(&mut queue, flow, number, 10));
        }
        (0..100).for_each(|_| assert!(queue.pop(pass).is_some()));
        *queue.flow(1).unwrap() = 9;
        let first = (0..100).filter(|_| queue.pop(pass).unwrap().flow == 0);
        assert!((9..=12).contains(&first.count()));
    }

    #[test]
    fn an_item_that_has_paid_keeps_its_place_and_does_not_pay_again() {
        let mut queue = queue(&[1, 1]);
        for number in 0..3 {
            (0..2).for_each(|flow| push(&mut queue, flow, number, 10));
        }
        let mut first = queue.pop(pass).unwrap();
        assert_eq!((first.flow, first.number), (0, 0));
        first.cost = 0; // paid
        queue.insert(0, 0, first);
        let judge = |weight: &mut u32, item: &Item| match item.cost {
            0 => Verdict::GoAgain,
            _ => pass(weight, item),
        };
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(judge)).collect();
        let of_0: Vec<_> = order.iter().filter(|item| item.flow == 0).collect();
        assert_eq!(
            of_0.iter().map(|item| item.number).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        let of_1 = order
            .iter()
            .position(|item| (item.flow, item.number) == (1, 1));
        let of_0 = order
            .iter()
            .position(|item| (item.flow, item.number) == (0, 2));
        assert!(of_1 < of_0);
    }

    #[test]
    fn removed_flows_and_items_are_gone() {
        let mut queue = queue(&[1, 1]);
        for number in 0..4 {
            (0..2).for_each(|flow| push(&mut queue, flow, number, 10));
        }
        assert_eq!(queue.remove(0, 4).unwrap().number, 2);
        assert!(queue.remove(0, 4).is_none() && queue.remove(0, 5).is_none());
        let items = queue.remove_flow(1).unwrap();
        assert_eq!((items.count(), queue.len()), (4, 3));
        assert_eq!(queue.add_flow(7, |_| false), 1, "the id is free again");
        let left: Vec<_> = std::iter::from_fn(|| queue.pop(pass)).collect();
        assert_eq!(
            left.iter().map(|item| item.number).collect::<Vec<_>>(),
            [0, 1, 3]
        );
        assert!(queue.is_empty());
    }

    /// One step of a random schedule.
    #[derive(Clone, Debug)]
    enum Step {
        Arrive { flow: usize, cost: u64 },
        Leave { flow: usize, which: usize },
        Dispatch,
        Complete,
    }

    fn steps(flows: usize) -> impl Strategy<Value = Vec<Step>> {
        let cost = prop_oneof![512..1_u64 << 14, 1_u64 << 14..1 << 22];
        let step = prop_oneof![
            4 => (0..flows, cost).prop_map(|(flow, cost)| Step::Arrive { flow, cost }),
            1 => (0..flows, 0..64_usize).prop_map(|(flow, which)| Step::Leave { flow, which }),
            3 => Just(Step::Dispatch),
            3 => Just(Step::Complete),
        ];
        prop::collection::vec(step, 1..400)
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(prop_oneof![1..=10_u32, 1..=10_000_u32], 2..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

        /// In every interval in which two flows are backlogged, what they dispatch differs, by weight, by at
        /// most one item of each: the bound of the paper of 1996.
        #[test]
        fn backlogged_flows_get_their_shares_in_every_interval(
            weights in weights(),
            costs in prop::collection::vec(512..1_u64 << 21, 64),
            start in 0..200_usize,
        ) {
            let mut queue = queue(&weights);
            let mut number = 0;
            let mut next_cost = move || { number += 7; costs[number % costs.len()] };
            let flows = 0..weights.len();
            for flow in flows.clone() {
                (0..4).for_each(|number| push(&mut queue, flow, number, next_cost()));
            }
            let mut work = vec![0_u64; weights.len()];
            for step in 0..400 {
                let item = queue.pop(pass).unwrap();
                push(&mut queue, item.flow, step, next_cost()); // all stay backlogged
                if step as usize >= start {
                    work[item.flow] += item.cost;
                }
                for (f, g) in flows.clone().flat_map(|f| flows.clone().map(move |g| (f, g))) {
                    let by_weight = |flow: usize, cost: u64| cost as f64 / f64::from(weights[flow]);
                    let lead = by_weight(f, work[f]) - by_weight(g, work[g]);
                    let bound = by_weight(f, 1 << 21) + by_weight(g, 1 << 21) + 1.0;
                    prop_assert!(lead <= bound, "flow {f} leads flow {g} by {lead}, of {bound}");
                }
            }
        }

        /// Nothing is lost or made, and each flow keeps its order, whatever arrives, leaves and goes.
        #[test]
        fn items_are_conserved_in_order(weights in weights(), steps in steps(5)) {
            let mut queue = queue(&weights);
            let mut expected = vec![VecDeque::new(); weights.len()];
            let (mut number, mut in_progress) = (0, 0);
            for step in steps {
                match step {
                    Step::Arrive { flow, cost } => {
                        let flow = flow % weights.len();
                        let item = Item { flow, number, cost };
                        number += 1;
                        expected[flow].push_back((queue.push(flow, item), item));
                    }
                    Step::Leave { flow, which } => {
                        let flow = flow % weights.len();
                        let waiting = &mut expected[flow];
                        if !waiting.is_empty() {
                            let (position, item) = waiting.remove(which % waiting.len()).unwrap();
                            prop_assert_eq!(queue.remove(flow, position), Some(item));
                        }
                    }
                    Step::Dispatch => {
                        let popped = queue.pop(pass);
                        prop_assert_eq!(popped.is_none(), expected.iter().all(VecDeque::is_empty));
                        if let Some(item) = popped {
                            in_progress += 1;
                            let first = expected[item.flow].pop_front();
                            prop_assert_eq!(first.map(|(_, item)| item), Some(item));
                        }
                    }
                    Step::Complete => {
                        in_progress -= i32::from(in_progress > 0);
                        if in_progress == 0 && queue.is_empty() {
                            queue.end_busy_period();
                        }
                    }
                }
                prop_assert_eq!(queue.len(), expected.iter().map(VecDeque::len).sum::<usize>());
            }
        }

        /// An item goes after a bounded amount of the others' work, however small its weight.
        #[test]
        fn no_flow_starves(weights in weights(), cost in 512..1_u64 << 16) {
            let mut queue = queue(&weights);
            for flow in 0..weights.len() {
                (0..4).for_each(|number| push(&mut queue, flow, number, cost));
            }
            let lightest = (0..weights.len()).min_by_key(|&flow| weights[flow]).unwrap();
            // Before its second item, each other flow sends its share, and one item.
            let bound: u32 = weights.iter().map(|weight| weight.div_ceil(weights[lightest]) + 1).sum();
            let mut seen = 0;
            for _ in 0..=bound {
                let item = queue.pop(pass).unwrap();
                seen += u32::from(item.flow == lightest);
                if seen == 2 {
                    return Ok(());
                }
                push(&mut queue, item.flow, 0, cost);
            }
            prop_assert!(false, "{seen} items in {bound} turns");
        }
    }
}

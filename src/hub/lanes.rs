//! The table from lanes to workers. Client ids hold a lane rather than a worker, so a process with another number of
//! workers can take over the connections of this one and spread their lanes over its own workers.

use crate::ids::{Lane, WorkerId};

/// The worker that serves the clients of each lane.
pub(super) struct LaneTable([WorkerId; Lane::COUNT]);

impl LaneTable {
    /// All lanes, dealt to the workers in turn: each of up to [`MAX_WORKERS`](crate::ids::MAX_WORKERS) gets at least
    /// one.
    pub(super) fn even(workers: usize) -> LaneTable {
        LaneTable(std::array::from_fn(|lane| WorkerId((lane % workers.max(1)) as u16)))
    }

    /// The worker that has a lane.
    pub(super) fn worker(&self, lane: Lane) -> WorkerId {
        self.0[usize::from(lane.0)]
    }

    /// The lanes of a worker, lowest first.
    pub(super) fn lanes_of(&self, worker: WorkerId) -> impl Iterator<Item = Lane> {
        Lane::all().filter(move |lane| self.worker(*lane) == worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MAX_WORKERS;

    #[test]
    fn every_lane_has_a_worker_and_every_worker_its_part_of_the_lanes() {
        for workers in [1, 2, 3, 100, 255, MAX_WORKERS] {
            let table = LaneTable::even(workers);
            let lanes: Vec<usize> = (0..workers).map(|w| table.lanes_of(WorkerId(w as u16)).count()).collect();
            assert_eq!(lanes.iter().sum::<usize>(), Lane::COUNT);
            assert!(lanes.iter().all(|&n| n >= 1 && n.abs_diff(Lane::COUNT / workers) <= 1), "{workers}: {lanes:?}");
            for worker in (0..workers).map(|w| WorkerId(w as u16)) {
                assert!(table.lanes_of(worker).all(|lane| table.worker(lane) == worker));
            }
        }
    }
}

//! Faults on files: what is mapped around them.

use std::sync::Arc;

use super::machine::*;
use crate::*;

#[test]
fn a_file_in_the_last_pages_of_the_user_half_maps_its_neighbours() {
    let world = World::new(64);
    let space = world.space();
    let mut file = TestFile::new(std::vec![1; 4 * 4096]);
    for index in 0..4 {
        let frame = world.memory.frames().allocate(0).unwrap().pin();
        file.frames[index] = Some(frame.frame());
    }
    let start = USER_END - 4 * PAGE_SIZE;
    let backing = Backing::File {
        file: Arc::new(file),
        offset: 0,
    };
    space.map_lazy(at(start), 4 * PAGE_SIZE, R, backing).unwrap();
    world.touch(&space, USER_END - 1, Access::Read).unwrap();
    assert!(space.is_mapped_for(start, Access::Read));
}

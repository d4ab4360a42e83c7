//! The hash of names by which an index is ordered: half of MD4, which every current `mke2fs` chooses.

/// The hash of a name; the lowest bit is free for the index.
pub(crate) fn half_md4(name: &[u8], seed: [u32; 4], unsigned: bool) -> u32 {
    let mut state = if seed == [0; 4] {
        [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]
    } else {
        seed
    };
    // An empty name has no chunk, and none is looked for.
    for (number, chunk) in name.chunks(32).enumerate() {
        let left = name.len() - number * 32;
        transform(&mut state, &words(chunk, left, unsigned));
    }
    let hash = state[1] & !1;
    // The end of a listing has this hash.
    if hash == 0xffff_fffe { 0xffff_fffc } else { hash }
}

/// Thirty-two bytes of a name as eight words, filled up by the length of what is left of the name.
fn words(chunk: &[u8], left: usize, unsigned: bool) -> [u32; 8] {
    let length = left as u32 & 0xff;
    let padding = length * 0x0101_0101;
    let mut words = [padding; 8];
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        *word = bytes.iter().fold(padding, |value, &byte| {
            let byte = if unsigned { u32::from(byte) } else { byte as i8 as u32 };
            byte.wrapping_add(value << 8)
        });
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    const K2: u32 = 0x5a82_7999;
    const K3: u32 = 0x6ed9_eba1;
    let [mut a, mut b, mut c, mut d] = *state;
    let f = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let g = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let h = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let mut step = |value: &dyn Fn(u32, u32, u32) -> u32, word: u32, shift: u32| {
        let sum = a.wrapping_add(value(b, c, d)).wrapping_add(word).rotate_left(shift);
        (a, b, c, d) = (d, sum, b, c);
    };
    for (index, shift) in [0, 1, 2, 3, 4, 5, 6, 7]
        .into_iter()
        .zip([3, 7, 11, 19].into_iter().cycle())
    {
        step(&f, input[index], shift);
    }
    for (index, shift) in [1, 3, 5, 7, 0, 2, 4, 6]
        .into_iter()
        .zip([3, 5, 9, 13].into_iter().cycle())
    {
        step(&g, input[index].wrapping_add(K2), shift);
    }
    for (index, shift) in [3, 7, 2, 6, 1, 5, 0, 4]
        .into_iter()
        .zip([3, 9, 11, 15].into_iter().cycle())
    {
        step(&h, input[index].wrapping_add(K3), shift);
    }
    for (state, value) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(value);
    }
}

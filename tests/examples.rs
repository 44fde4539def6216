//! The examples that need no window, run as tests. The one with a window, `own_device`, is a package of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]
#![allow(dead_code, reason = "the `main` of an example")]
#![allow(unreachable_pub, reason = "examples are programs of their own")]

#[path = "../examples/bring_your_weights.rs"]
mod bring_your_weights;
#[path = "../examples/custom_scheduler.rs"]
mod custom_scheduler;
#[path = "../examples/headless.rs"]
mod headless;
#[path = "../examples/routing_trace.rs"]
mod routing_trace;

use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::pipeline::Backend;

#[test]
fn headless_writes_a_grid_of_four_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grid.png");
    headless::draw(Path::new(headless::MODEL), &path, Backend::Cpu, Some(2)).unwrap();
    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    // Two by two images of 64 pixels, enlarged twice, with a gap of 4.
    assert_eq!((frame.width, frame.height, pixels.len()), (260, 260, 3 * 260 * 260));
    let colours: std::collections::HashSet<_> = pixels.as_chunks::<3>().0.iter().collect();
    assert!(colours.len() > 100, "{} colours", colours.len());
}

#[test]
fn routing_trace_has_every_step_and_a_map_of_the_image() {
    let trace = routing_trace::trace(Path::new(routing_trace::MODEL), 3).unwrap();
    let capacity = trace.capacity_by_step();
    assert_eq!(capacity.len(), 3);
    assert!(capacity.iter().all(|c| (0.1..8.0).contains(c)), "{capacity:?}");
    let map = routing_trace::map(&trace).unwrap();
    assert_eq!(map.lines().count(), trace.grid()[0]);
    assert!(map.lines().all(|row| row.split_whitespace().count() == trace.grid()[1]), "{map}");
}

#[test]
fn weights_from_memory_draw_the_same_image_each_time() {
    let image = bring_your_weights::draw().unwrap();
    assert_eq!(image.len(), 3 * 8 * 8);
    assert!(image.iter().all(|v| v.is_finite()));
    assert_eq!(image, bring_your_weights::draw().unwrap());
}

/// Adams–Bashforth has order two: half the step is a quarter of the error.
#[test]
fn the_custom_scheduler_converges_with_order_two() {
    // Without experts the velocity is smooth.
    let config = r#"{"kind":"dense","t_kind":"flow","space":"pixels","params":{"input_size":4,"in_channels":3,
        "num_classes":2,"patch_size":2,"depth":1,"hidden_size":16,"num_heads":2}}"#;
    let checkpoint = Checkpoint::random(config, 1).unwrap();
    let draw = |steps| custom_scheduler::draw(&checkpoint, Backend::Cpu, steps).unwrap();
    let exact = draw(256);
    let error = |steps| {
        let differences = draw(steps).into_iter().zip(&exact).map(|(a, b)| f64::from(a - b));
        differences.map(|d| d * d).sum::<f64>().sqrt()
    };
    let ratio = error(8) / error(16);
    assert!((3.0..5.5).contains(&ratio), "the error falls by a factor of {ratio}");
}

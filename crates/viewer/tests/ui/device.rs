//! Help → Check this device.

use super::*;

#[test]
fn help_makes_a_report_on_the_device() {
    let mut harness = opened(DESKTOP, file("tiny.safetensors", TINY));
    harness.get_by_label("Help").click();
    harness.run_steps(3);
    harness.get_by_label("Check this device").click_accesskit();
    harness.run_steps(3);
    let end = Instant::now() + Duration::from_mins(2);
    while !has(&harness, "Copy the report") {
        assert!(Instant::now() < end, "the report never came");
        harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    for part in
        ["register-only kernels", "workgroup-tile kernels", "block 1 of tiny", "computes on"]
    {
        assert!(has(&harness, part), "the report lacks {part:?}");
    }
    assert!(!has(&harness, "WRONG"));
    harness.check_accessibility();
}

//! Tests of presets: parameters, names, sizes.

use super::*;

fn config(name: &str) -> Config {
    name.parse::<Preset>().unwrap().config()
}

/// Numbers computed with the official modules.
#[test]
fn parameters_are_those_of_the_paper_s_models() {
    for (name, parameters) in [
        ("S", 32_963_360),
        ("S-E8", 83_513_168),
        ("S-E16", 140_265_344),
        ("S-128-E16", 140_191_616),
        ("B", 130_512_416),
        ("B-E8", 332_471_888),
        ("B-E16", 559_222_400),
        ("L", 458_102_816),
        ("L-E2", 571_471_928),
        ("L-E4", 772_970_576),
        ("L-E8", 1_175_967_872),
        ("L-E16", 1_981_962_464),
        ("dense-XL-ddpm", 675_129_632),
        ("XL-E8", 1_734_997_392),
        ("XL-E16", 2_924_985_856),
        ("ec-S-E16", 139_341_344),
        ("tc-B-E16", 555_605_024),
        ("ec-L-E8", 1_163_274_272),
        ("tc-L-E16", 1_969_170_464),
        // From the shapes in its public code, block by block; the published file of S has 0.80 GB in f32.
        ("dit-moe-S-8E2A", 199_307_552),
        ("dit-moe-XL-8E2A", 4_168_172_192),
        ("dit-moe-G-16E2A", 16_504_812_576),
    ] {
        assert_eq!(config(name).parameters(), parameters, "{name}");
    }
    // Only rounded numbers are known of these (paper, Table 5).
    for (name, millions) in [("XXL", 951), ("XXXL", 1353)] {
        assert_eq!((config(name).parameters() as f64 / 1e6).round() as usize, millions, "{name}");
    }
}

/// From the shapes in the public code, block by block. The authors state 5% fewer activated parameters, from 30 to 965
/// million, without saying what they count.
#[test]
fn parameters_of_dsmoe_are_those_of_its_code() {
    for (name, all, activated) in [
        ("dsmoe-S-E16", 96_870_560, 34_939_040),
        ("dsmoe-S-E48", 69_238_304, 31_194_656),
        ("dsmoe-B-E16", 386_318_624, 138_592_544),
        ("dsmoe-B-E48", 275_610_656, 123_436_064),
        ("dsmoe-L-E16", 1_368_055_840, 487_252_000),
        ("dsmoe-L-E48", 1_166_944_288, 456_796_192),
        ("dsmoe-3B-E16", 3_101_669_024, 1_011_480_224),
    ] {
        let config = config(name);
        let got = [config.parameters(), config.activated_parameters(config.capacity)];
        assert_eq!(got, [all, activated], "{name}");
    }
}

/// From the shapes in the public code, block by block. A token meets 1 of 13 experts.
#[test]
fn parameters_of_promoe_are_those_of_its_code() {
    for (name, all, activated) in [
        ("promoe-S", 75_543_584, 32_993_312),
        ("promoe-B", 300_607_520, 130_572_320),
        ("promoe-L", 1_062_684_704, 458_262_560),
        ("promoe-XL", 1_567_733_792, 675_339_296),
        ("promoe-ec-L", 1_062_684_704, 458_262_560),
    ] {
        let config = config(name);
        let got = [config.parameters(), config.activated_parameters(config.capacity)];
        assert_eq!(got, [all, activated], "{name}");
    }
}

/// From the shapes in the public code, block by block, in this program's layout: without weights of norms, with one matrix
/// for patches; biases of the selection are no parameters. The authors of JiT state 131, 459 and 953 million for B, L and H.
#[test]
fn parameters_of_jit_are_those_of_its_code() {
    for (name, all, activated) in [
        ("jit-B", 131_694_336, 131_694_336),
        ("jit-L", 459_794_240, 459_794_240),
        ("jit-H", 953_586_432, 953_586_432),
        ("jitmoe-B-E16", 388_016_128, 140_021_248),
        ("jitmoe-B-E48", 277_359_360, 124_854_528),
        ("jitmoe-L-E16", 1_370_802_800, 489_282_160),
        ("jitmoe-H-E16", 2_525_013_024, 982_552_608),
    ] {
        let config = config(name);
        let got = [config.parameters(), config.activated_parameters(config.capacity)];
        assert_eq!(got, [all, activated], "{name}");
    }
}

/// What a token really meets at C = 1, router and predictor included.
#[test]
fn activated_parameters_count_one_expert_and_the_whole_router() {
    for (name, tens_of_thousands) in
        [("S", 3296), ("S-E8", 3389), ("S-E16", 3392), ("L-E8", 47_090), ("L-E16", 47_110)]
    {
        let activated = config(name).activated_parameters(1.0);
        let got = (activated as f64 / 1e4).round() as usize;
        assert!(got.abs_diff(tens_of_thousands) <= 5, "{name}: {activated}");
    }
}

#[test]
fn names_lead_to_presets_and_back() {
    for (name, full) in [
        ("l-e8", "DiffMoE-L-E8-Flow"),
        ("dense-XL-ddpm", "Dense-XL-DDPM"),
        ("TC-B-E16", "TC-B-E16-Flow"),
        ("DiffMoE-S-E16-Flow", "DiffMoE-S-E16-Flow"),
        ("s-128-e16", "DiffMoE-S-128-E16-Flow"),
        ("dit-moe-b-16e2a", "DiT-MoE-B-16E2A-DDPM"),
        ("dit-moe-xl-8e2a", "DiT-MoE-XL-8E2A-Flow"),
        ("dsmoe-3b-e16", "DSMoE-3B-E16-Flow"),
        ("promoe-xl", "ProMoE-XL-Flow"),
        ("promoe-ec-l", "ProMoE-EC-L-Flow"),
        ("jit-h", "JiT-H-Flow"),
        ("jitmoe-b-e48", "JiTMoE-B-E48-Flow"),
    ] {
        let preset: Preset = name.parse().unwrap();
        assert_eq!(preset.to_string(), full);
        assert_eq!(full.parse::<Preset>().unwrap(), preset);
    }
    for name in [
        "",
        "M-E8",
        "L-E",
        "dense-L-E8",
        "tc-L",
        "L-E65",
        "L-E8-vp",
        "dit-moe-L-8E2A",
        "dit-moe-XL-8E2A-ddpm",
        "dit-moe-S-9E2A",
        "dsmoe-3B-E48",
        "dsmoe-S",
        "dsmoe-S-E16-ddpm",
        "promoe-XXL",
        "promoe-ec-S",
        "promoe-S-ddpm",
        "jit-S",
        "jitmoe-L-E48",
        "jit-B-ddpm",
    ] {
        let error = name.parse::<Preset>().unwrap_err().to_string();
        assert!(error.contains("names are like"), "{error}");
    }
}

#[test]
fn samples_may_have_another_shape() {
    let preset: Preset = "S-E8".parse().unwrap();
    let config = preset.of_size([16, 24]).unwrap().config();
    assert_eq!((config.input_size, config.grid(), config.tokens()), ([16, 24], [8, 12], 96));
    assert_eq!(preset.of_size([32, 32]).unwrap(), preset);
    assert!(preset.of_size([16, 7]).unwrap_err().to_string().contains("multiple"));
    assert!(preset.of_size([0, 16]).is_err());
}

#[test]
fn training_decides_on_the_solver() {
    assert_eq!(config("L-E8").defaults.scheduler, "euler");
    assert_eq!(config("L-E8-ddpm").defaults.scheduler, "ddpm");
}

//! Colours with a meaning: one per expert, and a ramp for counts.
//!
//! Expert colours are as distinguishable with any kind of colour vision as sixteen colours can be; they are always
//! accompanied by the expert's number. The ramp is uniform in perceived lightness.

use egui::Color32;

/// Number of distinct colours; beyond it they repeat.
pub const EXPERT_COLOURS: usize = 16;

/// Found by a search that moved well-known hues apart until the closest two of the first eight, and of all, were
/// as far from each other as possible for every kind of colour vision.
const EXPERTS: [u32; EXPERT_COLOURS] = [
    0xE5_9B_04, 0x4A_AD_FC, 0x20_95_6D, 0xDE_52_11, 0x52_4F_D4, 0xB7_A7_B0, 0x8C_74_BA, 0xD0_DB_68,
    0x93_53_00, 0x00_80_55, 0x77_DA_C1, 0x8E_24_3C, 0xA9_88_CF, 0x7B_3F_9E, 0x5A_61_71, 0xF1_B7_97,
];

/// Dark to light, through violet, red and orange.
const RAMP: [u32; 5] = [0x1B_10_44, 0x64_1A_80, 0xB7_37_6B, 0xF0_7A_3C, 0xFB_E6_8A];

/// The colour of an expert.
pub fn expert(index: usize) -> Color32 {
    colour(EXPERTS[index % EXPERT_COLOURS])
}

/// The ramp at `share`, 0 to 1; beyond the ends it stays.
pub fn ramp(share: f32) -> Color32 {
    let at = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f32;
    let first = (at as usize).min(RAMP.len() - 2);
    let (a, b) = (to_oklab(colour(RAMP[first])), to_oklab(colour(RAMP[first + 1])));
    let mut mixed: [f32; 3] = std::array::from_fn(|i| a[i] + (b[i] - a[i]) * (at - first as f32));
    // The anchors give the hue; the lightness is a straight line from the first to the last.
    let (dark, light) = (to_oklab(colour(RAMP[0]))[0], to_oklab(colour(RAMP[RAMP.len() - 1]))[0]);
    mixed[0] = dark + (light - dark) * share.clamp(0.0, 1.0);
    from_oklab(mixed)
}

/// Black or white, whichever is easier to read on a colour.
pub fn text_on(background: Color32) -> Color32 {
    if to_oklab(background)[0] > 0.62 { Color32::from_gray(16) } else { Color32::WHITE }
}

fn colour(rgb: u32) -> Color32 {
    Color32::from_rgb((rgb >> 16) as u8, (rgb >> 8) as u8, rgb as u8)
}

/// sRGB to OKLab (Ottosson, <https://bottosson.github.io/posts/oklab/>).
fn to_oklab(colour: Color32) -> [f32; 3] {
    let [r, g, b] = linear(colour);
    let long = (0.412_221_47 * r + 0.536_332_55 * g + 0.051_445_994 * b).cbrt();
    let medium = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
    let short = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).cbrt();
    [
        0.210_454_26 * long + 0.793_617_8 * medium - 0.004_072_047 * short,
        1.977_998_5 * long - 2.428_592_2 * medium + 0.450_593_7 * short,
        0.025_904_037 * long + 0.782_771_77 * medium - 0.808_675_77 * short,
    ]
}

fn from_oklab([lightness, a, b]: [f32; 3]) -> Color32 {
    let long = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let medium = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let short = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    let byte = |value: f32| {
        let value = value.clamp(0.0, 1.0);
        let curved = if value <= 0.003_130_8 {
            12.92 * value
        } else {
            1.055 * value.powf(1.0 / 2.4) - 0.055
        };
        (curved * 255.0).round() as u8
    };
    Color32::from_rgb(
        byte(4.076_741_7 * long - 3.307_711_6 * medium + 0.230_969_94 * short),
        byte(-1.268_438 * long + 2.609_757_4 * medium - 0.341_319_4 * short),
        byte(-0.004_196_086 * long - 0.703_418_6 * medium + 1.707_614_7 * short),
    )
}

fn linear(colour: Color32) -> [f32; 3] {
    [colour.r(), colour.g(), colour.b()].map(|byte| {
        let value = f32::from(byte) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Machado, Oliveira and Fernandes 2009: linear RGB as people without red, green or blue cones see it.
    const VISIONS: [(&str, [[f32; 3]; 3]); 4] = [
        ("full", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        (
            "protan",
            [
                [0.152_286, 1.052_583, -0.204_868],
                [0.114_503, 0.786_281, 0.099_216],
                [-0.003_882, -0.048_116, 1.051_998],
            ],
        ),
        (
            "deutan",
            [
                [0.367_322, 0.860_646, -0.227_968],
                [0.280_085, 0.672_501, 0.047_413],
                [-0.011_820, 0.042_940, 0.968_881],
            ],
        ),
        (
            "tritan",
            [
                [1.255_528, -0.076_749, -0.178_779],
                [-0.078_411, 0.930_809, 0.147_602],
                [0.004_733, 0.691_367, 0.303_900],
            ],
        ),
    ];

    fn seen(colour: Color32, vision: [[f32; 3]; 3]) -> [f32; 3] {
        let rgb = linear(colour);
        let byte = |row: [f32; 3]| {
            let value: f32 = row.iter().zip(rgb).map(|(m, c)| m * c).sum();
            let value = value.clamp(0.0, 1.0);
            let curved = if value <= 0.003_130_8 {
                12.92 * value
            } else {
                1.055 * value.powf(1.0 / 2.4) - 0.055
            };
            (curved * 255.0).round() as u8
        };
        to_oklab(Color32::from_rgb(byte(vision[0]), byte(vision[1]), byte(vision[2])))
    }

    fn closest(count: usize, vision: [[f32; 3]; 3]) -> (f32, usize, usize) {
        let mut best = (f32::MAX, 0, 0);
        for a in 0..count {
            for b in 0..a {
                let (x, y) = (seen(expert(a), vision), seen(expert(b), vision));
                let distance = x.iter().zip(y).map(|(p, q)| (p - q).powi(2)).sum::<f32>().sqrt();
                if distance < best.0 {
                    best = (distance, b, a);
                }
            }
        }
        best
    }

    #[test]
    fn experts_are_told_apart_with_every_colour_vision() {
        for (name, vision) in VISIONS {
            // A step of 0.02 is just noticeable side by side.
            let (eight, a, b) = closest(8, vision);
            assert!(eight > 0.1, "{name}: {a} and {b} differ by {eight}");
            let (sixteen, a, b) = closest(16, vision);
            assert!(sixteen > 0.05, "{name}: {a} and {b} differ by {sixteen}");
        }
    }

    #[test]
    fn the_ramp_gets_lighter_evenly() {
        let lightness: Vec<f32> = (0..=20).map(|i| to_oklab(ramp(i as f32 / 20.0))[0]).collect();
        let even = (lightness[20] - lightness[0]) / 20.0;
        assert!(even > 0.025, "the whole range is used: {lightness:?}");
        for pair in lightness.windows(2) {
            assert!((pair[1] - pair[0] - even).abs() < 0.012, "{lightness:?}");
        }
        assert_eq!(ramp(-1.0), ramp(0.0));
        assert_eq!(ramp(f32::INFINITY), ramp(1.0));
    }

    #[test]
    fn text_on_a_colour_can_be_read() {
        let luminance = |c: Color32| {
            let [r, g, b] = linear(c);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        for i in 0..EXPERT_COLOURS {
            let (back, text) = (luminance(expert(i)), luminance(text_on(expert(i))));
            let contrast = (back.max(text) + 0.05) / (back.min(text) + 0.05);
            assert!(contrast > 3.0, "expert {i}: {contrast}");
        }
    }
}

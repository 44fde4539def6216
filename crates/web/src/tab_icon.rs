//! The image that is being generated, in the icon of the browser's tab: to be seen while another tab is open.

use web_sys::Element;
use web_time::{Duration, Instant};

use diffmoe::pixels::{RgbImage, rgb};
use diffmoe_viewer::App;
use diffmoe_viewer::session::{Phase, Record};

/// Pixels along a side, at most.
const SIDE: usize = 64;
/// The icon changes no more often than this.
const PAUSE: Duration = Duration::from_millis(250);

/// The icon of the tab.
#[derive(Default)]
pub(super) struct TabIcon {
    /// The run and the number of its frames that are shown.
    shown: Option<(u64, usize)>,
    /// The page's own icon, while another one is shown.
    own: Option<String>,
    at: Option<Instant>,
}

impl TabIcon {
    /// Shows the first image while it is generated, and the page's own icon otherwise.
    pub(super) fn update(&mut self, app: &App) {
        let session = app.session();
        let draws = matches!(session.phase(), Phase::Running | Phase::Decoding { .. });
        let record = session.record().filter(|record| !record.recorded && record.frames.len() > 1);
        let Some(record) = record.filter(|_| draws && app.shows_tab_icon()) else {
            return self.restore();
        };
        let now = (record.id, record.frames.len());
        let is_early = self.at.is_some_and(|at| at.elapsed() < PAUSE);
        if self.shown == Some(now) || is_early {
            return;
        }
        if let (Some(link), Some(address)) = (link(), data_address(record)) {
            if self.own.is_none() {
                self.own = link.get_attribute("href");
            }
            // A page without an icon stays without one.
            let _ = link.set_attribute("href", &address);
            (self.shown, self.at) = (Some(now), Some(Instant::now()));
        }
    }

    fn restore(&mut self) {
        if let Some(own) = self.own.take()
            && let Some(link) = link()
        {
            let _ = link.set_attribute("href", &own);
        }
        self.shown = None;
    }
}

fn link() -> Option<Element> {
    web_sys::window()?.document()?.query_selector("link[rel=icon]").ok()?
}

/// The first image after the last step, as an address that contains it.
fn data_address(record: &Record) -> Option<String> {
    let images = record.images(record.frames.len().checked_sub(1)?)?;
    let [height, width] = images.size;
    let image = rgb(images.samples.get(..3 * height * width)?, images.size);
    // Every nth pixel: an icon is smaller anyway.
    let step = height.max(width).div_ceil(SIDE);
    let (rows, columns) = (height.div_ceil(step), width.div_ceil(step));
    let pixel = |at: usize| {
        let (y, x) = (at / columns * step, at % columns * step);
        image.get(3 * (y * width + x)..).and_then(|rest| rest.first_chunk::<3>()).copied()
    };
    let pixels: Option<Vec<[u8; 3]>> = (0..rows * columns).map(pixel).collect();
    let small = RgbImage::from_raw(columns as u32, rows as u32, pixels?.into_flattened())?;
    let png = small.to_png(&[]).ok()?;
    Some(format!("data:image/png;base64,{}", base64::encode(png)))
}

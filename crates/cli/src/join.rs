//! `diffmoe join`: the batches of a set of images as one file, or as a folder of PNGs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diffmoe::pixels::RgbImage;
use indicatif::ProgressBar;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Outcome;
use super::image_set::{self, BatchFile};
use super::output::Output;

/// Combine the batches of `sample --set` into an .npz file or numbered PNGs.
///
/// The .npz contains `arr_0`, the images [n, height, width, 3] as uint8 as evaluation programs expect them, and
/// `labels` [n, tables] if the model has labels. Missing batches and batches of different sets are errors.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe join images --out images.npz
  diffmoe join images --out png-folder")]
pub(super) struct Arguments {
    /// Folder with the batches.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// File ending in .npz, or a folder for numbered PNGs.
    #[arg(short, long, value_name = "FILE.npz|FOLDER")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let batches = open_all(&arguments.folder)?;
    let count = batches.iter().map(|batch| batch.header.images).sum::<usize>();
    let is_npz = arguments.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    let bar = ProgressBar::new(count as u64);
    if is_npz {
        let out = Output::reserve(&arguments.out)?;
        out.write(|part| write_npz(part, &batches, &bar).map_err(|e| e.to_string()))?;
    } else {
        write_pngs(&arguments.out, &batches, &bar)?;
    }
    bar.finish_and_clear();
    println!("wrote {count} images to {}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

/// All batches of a set in order, or what is wrong with it.
fn open_all(folder: &Path) -> Result<Vec<BatchFile>, String> {
    let mut batches: Vec<BatchFile> = Vec::new();
    let mut next = 0;
    for path in image_set::list(folder)? {
        let again = "run the command of the set again to redraw it";
        let batch = BatchFile::open(&path)
            .map_err(|reason| format!("{}: {reason}; {again}", path.display()))?;
        if let Some(before) = batches.first() {
            let difference = before.header.difference(&batch.header);
            if difference.is_some() || before.size != batch.size {
                let difference = difference.unwrap_or_else(|| "size".into());
                return Err(format!("{} belongs to another set ({difference})", path.display()));
            }
            if before.header.device != batch.header.device {
                eprintln!(
                    "note: the batches come from different devices ({}; {}), so last bits may \
                        differ",
                    before.header.device, batch.header.device
                );
            }
        }
        let first = batch.header.first;
        let named = image_set::path(folder, first);
        if path != named {
            return Err(format!(
                "{} is a copy of {} or was renamed; remove it, or restore its name",
                path.display(),
                named.display()
            ));
        }
        if first < next {
            return Err(format!(
                "{} starts with image {first}, which the previous batch contains too; remove one of them",
                path.display()
            ));
        }
        missing(next, first)?;
        next += batch.header.images;
        batches.push(batch);
    }
    let count = batches.iter().map(|batch| batch.header.count).max();
    let count =
        count.ok_or_else(|| format!("{} contains no batches of images", folder.display()))?;
    missing(next, count)?;
    Ok(batches)
}

fn missing(from: usize, to: usize) -> Result<(), String> {
    if from == to {
        return Ok(());
    }
    Err(format!(
        "the set is not complete: images {from} to {} are missing; run the shards again, \
            existing batches are kept",
        to.saturating_sub(1).max(from)
    ))
}

fn write_npz(path: &Path, batches: &[BatchFile], bar: &ProgressBar) -> zip::result::ZipResult<()> {
    let count = batches.iter().map(|batch| batch.header.images).sum::<usize>();
    let tables = batches[0].header.tables.len();
    let [height, width] = batches[0].size;
    let mut zip = ZipWriter::new(BufWriter::new(File::create(path)?));
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    zip.start_file("arr_0.npy", options)?;
    zip.write_all(&npy_header("|u1", &[count, height, width, 3]))?;
    for batch in batches {
        zip.write_all(batch.images())?;
        bar.inc(batch.header.images as u64);
    }
    if tables > 0 {
        zip.start_file("labels.npy", options)?;
        zip.write_all(&npy_header("<u4", &[count, tables]))?;
        for header in batches.iter().map(|batch| &batch.header) {
            for i in 0..header.images {
                for table in &header.labels {
                    zip.write_all(&table[i].to_le_bytes())?;
                }
            }
        }
    }
    zip.finish()?.flush()?;
    Ok(())
}

/// The header of NumPy's file format 1.0: magic, length, and a dictionary padded to a multiple of 64 bytes.
fn npy_header(kind: &str, shape: &[usize]) -> Vec<u8> {
    let shape: Vec<_> = shape.iter().map(|n| format!("{n},")).collect();
    let mut text =
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({})}}", shape.join(" "));
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.into_bytes());
    header
}

fn write_pngs(folder: &Path, batches: &[BatchFile], bar: &ProgressBar) -> Result<(), String> {
    let fail = |e: &dyn std::fmt::Display| format!("cannot write to {}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(|e| fail(&e))?;
    for batch in batches {
        let [height, width] = batch.size;
        for (i, pixels) in batch.images().chunks_exact(height * width * 3).enumerate() {
            let image = RgbImage::from_raw(width as u32, height as u32, pixels.to_vec());
            let path = folder.join(format!("{:08}.png", batch.header.first + i));
            image
                .ok_or_else(|| fail(&"an image has no pixels"))?
                .save(path)
                .map_err(|e| fail(&e))?;
            bar.inc(1);
        }
    }
    Ok(())
}

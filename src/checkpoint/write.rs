//! Writing safetensors: traces, intermediate values, small test models.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A tensor on its way to a file.
#[derive(Clone, Debug)]
pub struct TensorOut {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl TensorOut {
    /// A tensor of f32.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::F32, bytes }
    }

    /// A tensor of u8.
    pub fn u8(name: impl Into<String>, shape: &[usize], values: &[u8]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::U8, bytes: values.to_vec() }
    }

    /// A tensor of u32.
    pub fn u32(name: impl Into<String>, shape: &[usize], values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), shape: shape.to_vec(), dtype: Dtype::U32, bytes }
    }
}

/// Writes tensors and header entries to a file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorOut],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> std::io::Result<()> {
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|t| TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map(|v| (t.name.as_str(), v)))
        .collect();
    let views = views.map_err(std::io::Error::other)?;
    let bytes =
        safetensors::serialize(views, Some(metadata.into_iter().collect::<HashMap<_, _>>()))
            .map_err(std::io::Error::other)?;
    std::fs::write(path, bytes)
}

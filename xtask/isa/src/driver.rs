//! The compiling process: pipelines from files, through the one Vulkan driver that it sees, to statistics in files.

#![expect(unsafe_code, reason = "Vulkan without wgpu, which shows no statistics of a pipeline")]

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ash::khr::pipeline_executable_properties as executable;
use ash::vk;

use crate::Outcome;
use crate::spirv::{self, Binary};

/// The compiler's statistics of a pipeline.
pub(crate) struct Found {
    /// Driver and version.
    pub(crate) driver: String,
    /// Time of `vkCreateComputePipelines`.
    pub(crate) milliseconds: f64,
    /// Statistics by the names that the driver gives them.
    pub(crate) statistics: Vec<(String, f64)>,
    /// Machine code.
    pub(crate) assembly: String,
}

impl Found {
    /// A statistic that the driver must have.
    pub(crate) fn statistic(&self, name: &str) -> Outcome<f64> {
        let found = self.statistics.iter().find(|(n, _)| n == name);
        found.map(|&(_, value)| value).ok_or_else(|| {
            format!("{} does not say {name:?} of a pipeline; the gate needs it", self.driver)
        })
    }
}

/// The file that indicates that there was a device.
const OPENED: &str = "opened";

/// Whether [`compile_all`] got as far as having a device.
pub(crate) fn has_opened(folder: &Path) -> bool {
    folder.join(OPENED).exists()
}

/// Where the machine code of a pipeline is left.
pub(crate) fn assembly_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.s"))
}

/// Reads what [`compile_all`] left.
pub(crate) fn read(folder: &Path, index: usize) -> Outcome<Found> {
    let path = folder.join(format!("{index}.statistics"));
    let text = std::fs::read_to_string(path).map_err(|_| "it was not compiled")?;
    let mut lines = text.lines();
    let driver = lines.next().unwrap_or_default().to_owned();
    let mut statistics = pairs(lines)?;
    if statistics.is_empty() {
        return Err("the time is missing".into());
    }
    let milliseconds = statistics.remove(0).1;
    let assembly =
        std::fs::read_to_string(assembly_path(folder, index)).map_err(|e| e.to_string())?;
    Ok(Found { driver, milliseconds, statistics, assembly })
}

/// Lines of a name, a tabulator and a number.
fn pairs<'a>(lines: impl Iterator<Item = &'a str>) -> Outcome<Vec<(String, f64)>> {
    lines
        .map(|line| {
            let (name, value) = line.split_once('\t')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "a line is no pair".into())
}

/// Compiles all that lies in the folder: `0.wgsl` with `0.constants`, and so on.
pub(crate) fn compile_all(folder: &Path) -> Outcome<()> {
    let device = Device::open()?;
    std::fs::write(folder.join(OPENED), &device.driver).map_err(|e| e.to_string())?;
    for index in 0.. {
        let Ok(wgsl) = std::fs::read_to_string(folder.join(format!("{index}.wgsl"))) else { break };
        let constants = std::fs::read_to_string(folder.join(format!("{index}.constants")));
        let constants = pairs(constants.map_err(|e| e.to_string())?.lines())?;
        let binary = spirv::compile(&wgsl, &constants)?;
        let found = device.compile(&binary).map_err(|e| format!("{index}.wgsl: {e}"))?;
        std::fs::write(assembly_path(folder, index), &found.assembly).map_err(|e| e.to_string())?;
        let times = ("milliseconds".to_owned(), found.milliseconds);
        let lines = std::iter::once(&times).chain(&found.statistics);
        let lines = lines.map(|(name, value)| format!("{name}\t{value}"));
        let text: Vec<_> = std::iter::once(found.driver).chain(lines).collect();
        std::fs::write(folder.join(format!("{index}.statistics")), text.join("\n"))
            .map_err(|e| e.to_string())?;
    }
    // A device without hardware is not made to be taken down in order; the system does it.
    std::mem::forget(device);
    Ok(())
}

struct Device {
    /// Keeps the library loaded.
    _entry: ash::Entry,
    raw: ash::Device,
    executable: executable::Device,
    driver: String,
}

/// What wgpu requests, and what its SPIR-V needs.
const EXTENSIONS: [&CStr; 2] = [executable::NAME, ash::ext::robustness2::NAME];

impl Device {
    fn open() -> Outcome<Self> {
        let problem = |what: &'static str| move |error| format!("{what}: {error}");
        // SAFETY: handles are used while what made them lives, which `Device` keeps until the process ends;
        // structures that hold pointers live until the call has returned.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| format!("no Vulkan loader: {e}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&create, None).map_err(problem("no instance"))?;
            let devices = instance.enumerate_physical_devices().map_err(problem("no devices"))?;
            let &physical = devices.first().ok_or("the driver shows no device")?;

            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let driver = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));

            let offered = instance
                .enumerate_device_extension_properties(physical)
                .map_err(problem("no extensions"))?;
            for extension in EXTENSIONS {
                let is_this =
                    |e: &vk::ExtensionProperties| e.extension_name_as_c_str() == Ok(extension);
                if !offered.iter().any(is_this) {
                    return Err(format!("{driver} lacks {}", extension.to_string_lossy()));
                }
            }
            let priorities = [1.0];
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&priorities)];
            let names = EXTENSIONS.map(CStr::as_ptr);
            let mut robust =
                vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
            let mut statistics =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                    .pipeline_executable_info(true);
            let mut vulkan13 =
                vk::PhysicalDeviceVulkan13Features::default().shader_integer_dot_product(true);
            let mut vulkan12 = vk::PhysicalDeviceVulkan12Features::default().shader_int8(true);
            let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&names)
                .enabled_features(&features)
                .push_next(&mut robust)
                .push_next(&mut statistics)
                .push_next(&mut vulkan13)
                .push_next(&mut vulkan12);
            let device =
                instance.create_device(physical, &create, None).map_err(problem("no device"))?;
            let executable = executable::Device::new(&instance, &device);
            Ok(Self { _entry: entry, raw: device, executable, driver })
        }
    }

    fn compile(&self, binary: &Binary) -> Result<Found, vk::Result> {
        // SAFETY: as in `open`. Every object stays until the process ends.
        unsafe {
            let create = vk::ShaderModuleCreateInfo::default().code(&binary.words);
            let module = self.raw.create_shader_module(&create, None)?;
            let bindings: Vec<_> = (0..=binary.storage)
                .map(|binding| {
                    let kind = match binding {
                        0 => vk::DescriptorType::UNIFORM_BUFFER,
                        _ => vk::DescriptorType::STORAGE_BUFFER,
                    };
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(binding)
                        .descriptor_type(kind)
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                })
                .collect();
            let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.raw.create_descriptor_set_layout(&create, None)?];
            let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.raw.create_pipeline_layout(&create, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let kept = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let create =
                vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(kept);
            let cache = vk::PipelineCache::null();
            let begin = Instant::now();
            let made = self.raw.create_compute_pipelines(cache, &[create], None);
            let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
            let pipeline = made.map_err(|(_, error)| error)?[0];

            let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let statistics = self
                .executable
                .get_pipeline_executable_statistics(&which)?
                .iter()
                .map(|s| (text(&s.name), number(s)))
                .collect();
            let representations = self.texts(&which)?;
            let assembly = representations.into_iter().find(|(name, _)| name == "Assembly");
            Ok(Found {
                driver: self.driver.clone(),
                milliseconds,
                statistics,
                assembly: assembly.map(|(_, text)| text).unwrap_or_default(),
            })
        }
    }

    /// What the compiler kept of its stages, by name.
    fn texts(
        &self,
        which: &vk::PipelineExecutableInfoKHR<'_>,
    ) -> Result<Vec<(String, String)>, vk::Result> {
        // SAFETY: the second call writes as many bytes as the first one returned, to vectors of that size.
        unsafe {
            let mut kept =
                self.executable.get_pipeline_executable_internal_representations(which)?;
            let mut buffers: Vec<_> = kept.iter().map(|one| vec![0_u8; one.data_size]).collect();
            for (one, buffer) in kept.iter_mut().zip(&mut buffers) {
                one.p_data = buffer.as_mut_ptr().cast();
            }
            let mut count = u32::try_from(kept.len()).unwrap_or(u32::MAX);
            let read = self.executable.fp().get_pipeline_executable_internal_representations_khr;
            read(self.raw.handle(), which, &raw mut count, kept.as_mut_ptr()).result()?;
            let decode = |buffer: &[u8]| {
                let end = buffer.iter().position(|&b| b == 0).unwrap_or(buffer.len());
                String::from_utf8_lossy(&buffer[..end]).into_owned()
            };
            Ok(kept.iter().zip(&buffers).map(|(one, b)| (text(&one.name), decode(b))).collect())
        }
    }
}

/// A text of fixed size that ends with a zero.
fn text(characters: &[std::ffi::c_char]) -> String {
    // Signed or not, as the system has it.
    let bytes = characters.iter().map(|c| c.to_ne_bytes()[0]).take_while(|&b| b != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

fn number(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> f64 {
    // SAFETY: the format determines which member of the union the driver wrote.
    unsafe {
        match statistic.format {
            vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => statistic.value.f64,
            vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as f64,
            vk::PipelineExecutableStatisticFormatKHR::BOOL32 => f64::from(statistic.value.b32),
            _ => statistic.value.u64 as f64,
        }
    }
}

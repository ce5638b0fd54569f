//! What the platform gives to a task and takes from it.

/// One value that the platform hands over: an image or a JSON file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// What the platform's `inputs.json` calls it.
    pub slug: &'static str,
    /// Where it lies relative to the input folder, unless `inputs.json` says otherwise: a folder with one image, or a
    /// JSON file.
    pub path: &'static str,
}

/// One row of the platform's table: sockets read, and places written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// What the task is called in messages.
    pub task: &'static str,
    /// The input image.
    pub image: Socket,
    /// What is known about the patient.
    pub clinical: Socket,
    /// Folder of the output image, relative to the output folder.
    pub output_image: &'static str,
    /// File of the output number, relative to the output folder.
    pub output_number: &'static str,
}

/// PANORAMA: a venous CT in, a detection map and a likelihood out.
pub const PANORAMA: Interface = Interface {
    task: "PANORAMA",
    image: Socket { slug: "venous-phase-ct-scan", path: "images/venous-ct" },
    clinical: Socket {
        slug: "clinical-information-pancreatic-ct",
        path: "clinical-information-pancreatic-ct.json",
    },
    output_image: "images/pdac-detection-map",
    output_number: "pdac-likelihood.json",
};

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

/// What a task puts into the output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    /// A detection map in the folder `map` and a likelihood in the file `likelihood`, both relative to the output folder.
    Detection {
        /// Folder of the float32 image.
        map: &'static str,
        /// File of the number.
        likelihood: &'static str,
    },
    /// A segmentation of 0 and 1 in the folder `mask`, relative to the output folder.
    Segmentation {
        /// Folder of the uint8 image.
        mask: &'static str,
    },
}

/// One row of the platform's table: sockets read, and places written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// What the task is called on the command line, and the folder of its recipe among the weights.
    pub name: &'static str,
    /// What the task is called in messages.
    pub task: &'static str,
    /// What the recipe's `system` is to be.
    pub system: &'static str,
    /// The input image.
    pub image: Socket,
    /// What is known about the patient, if the task hands that over.
    pub clinical: Option<Socket>,
    /// What is written.
    pub output: OutputForm,
}

impl Interface {
    /// Folder of the output image, relative to the output folder.
    pub fn output_images(&self) -> &'static str {
        match self.output {
            OutputForm::Detection { map, .. } => map,
            OutputForm::Segmentation { mask } => mask,
        }
    }

    /// File of the output number, relative to the output folder, if there is one.
    pub fn output_number(&self) -> Option<&'static str> {
        match self.output {
            OutputForm::Detection { likelihood, .. } => Some(likelihood),
            OutputForm::Segmentation { .. } => None,
        }
    }
}

/// All tasks.
pub const INTERFACES: [Interface; 3] = [PANORAMA, PANTHER_T1, PANTHER_T2];

/// Folder of PANORAMA's detection map, relative to the output folder.
pub const DETECTION_MAP: &str = "images/pdac-detection-map";
/// File of PANORAMA's likelihood, relative to the output folder.
pub const LIKELIHOOD: &str = "pdac-likelihood.json";

/// PANORAMA: a venous CT in, a detection map and a likelihood out.
pub const PANORAMA: Interface = Interface {
    name: "panorama",
    task: "PANORAMA",
    system: "panorama",
    image: Socket { slug: "venous-phase-ct-scan", path: "images/venous-ct" },
    clinical: Some(Socket {
        slug: "clinical-information-pancreatic-ct",
        path: "clinical-information-pancreatic-ct.json",
    }),
    output: OutputForm::Detection { map: DETECTION_MAP, likelihood: LIKELIHOOD },
};

/// PANTHER's first task: a diagnostic T1-weighted MRI in, the tumour's segmentation out.
pub const PANTHER_T1: Interface = Interface {
    name: "panther-t1",
    task: "PANTHER task 1 (T1-weighted MRI)",
    system: "panther",
    image: Socket { slug: "abdominal-t1-mri", path: "images/abdominal-t1-mri" },
    clinical: None,
    output: OutputForm::Segmentation { mask: "images/pancreatic-tumor-segmentation" },
};

/// PANTHER's second task: a T2-weighted MRI of an MR-Linac in, the tumour's segmentation out.
pub const PANTHER_T2: Interface = Interface {
    name: "panther-t2",
    task: "PANTHER task 2 (T2-weighted MRI)",
    image: Socket { slug: "abdominal-t2-mri", path: "images/abdominal-t2-mri" },
    ..PANTHER_T1
};

//! What is launched: recording it to launch all of it at once later, and waiting for it.

use super::{Cuda, CudaError};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaGraph, CudaStream, result, sys};

/// Launches that were recorded.
pub(crate) struct Recording(CudaGraph);

impl Recording {
    /// Launches all of them again, on the same memory.
    pub fn launch(&self) -> Result<(), CudaError> {
        self.0.launch().map_err(CudaError::driver("replaying the network", 0))
    }
}

/// A point in what is launched.
pub(crate) struct Mark(CudaEvent);

impl Mark {
    /// Waits until everything that was launched before the mark has ended.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.0.synchronize().map_err(CudaError::driver("computing", 0))
    }
}

/// Makes sure that a stream does not go on recording, whatever happened: nothing else could be done with it.
struct EndRecording<'a>(&'a CudaStream);

impl Drop for EndRecording<'_> {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the safe function returns early after errors of other threads")]
        // SAFETY: the stream lives; a graph that comes of it is destroyed once.
        unsafe {
            if let Ok(graph) = result::stream::end_capture(self.0.cu_stream())
                && !graph.is_null()
            {
                let _failed = result::graph::destroy(graph);
            }
        }
    }
}

impl Cuda {
    /// Marks what has been launched so far.
    pub(crate) fn mark(self) -> Result<Mark, CudaError> {
        self.stream().record_event(None).map(Mark).map_err(CudaError::driver("computing", 0))
    }

    /// Records what `launch` launches without computing it; `None` where it cannot be recorded.
    pub(crate) fn record(self, launch: impl FnOnce() -> candle_core::Result<()>) -> Option<Recording> {
        // Other threads upload weights meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let refused = |error: CudaError| tracing::debug!("launches are not recorded: {error}");
        let stream = self.stream();
        let begun = stream.begin_capture(mode).map_err(CudaError::driver("recording", 0));
        begun.map_err(refused).ok()?;
        let ended = EndRecording(stream);
        let launched = launch();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let graph = graph.map_err(CudaError::driver("recording", 0)).map_err(refused).ok().flatten();
        drop(ended);
        match launched {
            Ok(()) => graph.map(Recording),
            Err(error) => {
                tracing::debug!("launches are not recorded: {error}");
                None
            }
        }
    }
}

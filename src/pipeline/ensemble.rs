//! Several models that answer one question about one scan.
//!
//! Models that prepare scans alike share the prepared scan, and their logits are averaged, as nnU-Net averages those of a model's
//! folds (`predict_from_raw_data.py: predict_logits_from_preprocessed_data`). Of models that differ the probabilities are averaged
//! on the scan's grid, as nnU-Net's `ensembling/ensemble.py` averages those of configurations.

use super::budget::{BudgetReport, Load, ModelReport, Share, choose, seconds_for_networks};
use super::execution::Stage;
use super::{Observer, PipelineError};
use crate::imaging::MemoryGauge;
use crate::imaging::memory::bytes;
use crate::nnunet::export::{
    MeanProbabilities, Segmentation, SegmentationRequest, add_probabilities, segment,
};
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::{Logits, PredictError, SharedScan, TileProgress, network_shape, run_flop};
use crate::nnunet::sliding_window::Tiling;
use half::f16;
use ndarray::{Array3, Zip};
use std::time::Duration;

/// A model and how much its answer counts.
pub(super) struct Member<'c> {
    pub stage: Stage<'c>,
    /// Above 0.
    pub weight: f64,
}

/// The members that take part, by their number, and how much of each is computed; those of a group prepare scans alike.
type Groups = Vec<Vec<(usize, Share)>>;

/// Members in the recipe's order.
pub(super) struct Ensemble<'c> {
    pub members: Vec<Member<'c>>,
    /// Whether probabilities are averaged also of members that prepare scans alike.
    pub apart: bool,
    pub memory: MemoryGauge,
}

/// How the tiles of all members together get on.
struct Tiles<'o> {
    observer: &'o dyn Observer,
    before: usize,
    all: usize,
}

impl Tiles<'_> {
    fn done(&self, progress: TileProgress) -> bool {
        self.observer.tile(TileProgress { done: self.before + progress.done, total: self.all })
    }
}

impl<'c> Ensemble<'c> {
    /// The members' models in order.
    pub fn stages(&self) -> impl Iterator<Item = &Stage<'c>> {
        self.members.iter().map(|member| &member.stage)
    }

    /// Labels of a scan (z, y, x; spacing in mm), and what a time budget changed, if there is one; `stage` is what this is called.
    ///
    /// # Errors
    /// If a network cannot run or the observer stops it.
    pub fn segment(
        &self,
        stage: &'static str,
        image: Array3<f32>,
        spacing: [f64; 3],
        request: SegmentationRequest,
        observer: &dyn Observer,
    ) -> Result<(Segmentation, Option<BudgetReport>), PipelineError> {
        let (shares, report) = self.shares(&image, spacing, observer)?;
        observer.stage(stage);
        let groups = self.groups(&shares);
        let segmentation = match groups.as_slice() {
            [group] => {
                let first = self.members[group[0].0].stage.model();
                let scan = SharedScan::new(first, vec![image], spacing)?;
                self.segment_group(group, scan, request, observer)?
            }
            _ => {
                let labels = self.segment_by_probabilities(&groups, image, spacing, observer)?;
                Segmentation { labels, probability: None, patches: Vec::new() }
            }
        };
        Ok((segmentation, report))
    }

    /// The members that take part, in groups that prepare scans alike.
    fn groups(&self, shares: &[Option<Share>]) -> Groups {
        let mut groups: Groups = Vec::new();
        for (number, share) in shares.iter().enumerate() {
            let Some(share) = *share else { continue };
            let model = self.members[number].stage.model();
            let alike =
                |group: &&mut Vec<(usize, Share)>| self.members[group[0].0].stage.model().prepares_as(model);
            match groups.iter_mut().find(alike).filter(|_| !self.apart) {
                Some(group) => group.push((number, share)),
                None => groups.push(vec![(number, share)]),
            }
        }
        groups
    }

    fn segment_group(
        &self,
        group: &[(usize, Share)],
        scan: SharedScan,
        request: SegmentationRequest,
        observer: &dyn Observer,
    ) -> Result<Segmentation, PipelineError> {
        if let &[(number, share)] = group {
            let predictor = self.members[number].stage.predictor(share, None)?;
            return Ok(predictor.segment_scan(scan, request, &|progress| observer.tile(progress))?);
        }
        let mut tiles = Tiles { observer, before: 0, all: self.tiles(group, scan.shape()) };
        let logits = self.mean_logits(group, &scan, None, &mut tiles)?;
        let model = self.members[group[0].0].stage.model();
        Ok(segment(model, scan.grid(), &logits, request))
    }

    /// Labels from the mean probabilities of several groups.
    fn segment_by_probabilities(
        &self,
        groups: &Groups,
        mut image: Array3<f32>,
        spacing: [f64; 3],
        observer: &dyn Observer,
    ) -> Result<Array3<u16>, PipelineError> {
        let (z, y, x) = image.dim();
        let model_of = |group: &[(usize, Share)]| self.members[group[0].0].stage.model();
        let classes = model_of(&groups[0]).dataset.output.heads();
        let asked = MeanProbabilities::bytes([z, y, x], classes) + bytes(&[z, y, x], size_of::<u16>());
        let asked = asked + bytes(&[z, y, x], size_of::<f32>());
        self.memory
            .check("the members' probabilities and a copy of the scan", asked)
            .map_err(PredictError::from)?;
        let mut tiles = Tiles { observer, before: 0, all: 0 };
        for group in groups {
            tiles.all += self.tiles(group, network_shape(model_of(group), &image, spacing)?);
        }
        let all = groups.iter().flatten().map(|&(member, _)| self.members[member].weight).sum::<f64>();
        let mut mean = MeanProbabilities::new([z, y, x], classes);
        for (number, group) in groups.iter().enumerate() {
            let last = number + 1 == groups.len();
            let image = if last { std::mem::take(&mut image) } else { image.clone() };
            let scan = SharedScan::new(model_of(group), vec![image], spacing)?;
            let after = groups.get(number + 1).map(|next| next[0].0);
            let logits = self.mean_logits(group, &scan, after, &mut tiles)?;
            let weight: f64 = group.iter().map(|&(member, _)| self.members[member].weight).sum();
            let part = (weight / all) as f32;
            add_probabilities(&mut mean, model_of(group), scan.grid(), &logits, part);
        }
        Ok(mean.labels())
    }

    /// Weighted mean of the logits of a group; `after` is the member whose weights are loaded at the end.
    fn mean_logits(
        &self,
        group: &[(usize, Share)],
        scan: &SharedScan,
        after: Option<usize>,
        tiles: &mut Tiles<'_>,
    ) -> Result<Logits, PipelineError> {
        let heads = self.members[group[0].0].stage.model().dataset.output.heads();
        let logits = bytes(&scan.shape(), heads * size_of::<f32>());
        let at_once = if group.len() > 1 { 2 } else { 1 };
        self.memory.check("the members' logits", at_once * logits).map_err(PredictError::from)?;
        let all = group.iter().map(|&(member, _)| self.members[member].weight).sum::<f64>();
        let mut mean: Option<Logits> = None;
        for (i, &(number, share)) in group.iter().enumerate() {
            let member = &self.members[number];
            let next = group.get(i + 1).map(|next| next.0).or(after);
            let predictor = member.stage.predictor(share, next.map(|next| &self.members[next].stage))?;
            let logits = predictor.logits_of(scan, &|progress| tiles.done(progress))?;
            tiles.before += self.tiles(&[(number, share)], scan.shape());
            let part = (member.weight / all) as f32;
            mean = Some(match mean {
                Some(sum) => with_part(sum, &logits, part),
                None => part_of(logits, part),
            });
        }
        Ok(mean.ok_or_else(|| PredictError::from(candle_core::Error::msg("no member")))?)
    }

    /// Tiles of a group's members over all their folds.
    fn tiles(&self, group: &[(usize, Share)], shape: [usize; 3]) -> usize {
        let of = |&(number, share): &(usize, Share)| {
            share.folds * tile_count(self.members[number].stage.model(), shape, share.step)
        };
        group.iter().map(of).sum()
    }

    /// How much of each member is computed: all, or what a time budget allows.
    fn shares(
        &self,
        image: &Array3<f32>,
        spacing: [f64; 3],
        observer: &dyn Observer,
    ) -> Result<(Vec<Option<Share>>, Option<BudgetReport>), PipelineError> {
        let Some(budget) = observer.time() else {
            let all = self.members.iter().map(|m| Some(m.stage.whole_share()));
            return Ok((all.collect(), None));
        };
        let loads = self.loads(image, spacing, observer)?;
        let now = observer.time().unwrap_or(budget);
        let choice = choose(&loads, seconds_for_networks(now, budget.spent));
        let members = self.members.iter().zip(&loads).zip(&choice.shares);
        let models = members.map(|((member, load), computed)| ModelReport {
            folder: member.stage.folder().display().to_string(),
            seconds_per_run: load.run_seconds,
            recipe: load.whole,
            computed: *computed,
        });
        let report = BudgetReport::new(now, choice.seconds, choice.fits, models.collect());
        report.log();
        Ok((choice.shares, Some(report)))
    }

    /// What a time budget changed where there is nothing to compute.
    pub fn nothing_computed(&self, observer: &dyn Observer) -> Option<BudgetReport> {
        let budget = observer.time()?;
        let models = self.members.iter().map(|member| ModelReport {
            folder: member.stage.folder().display().to_string(),
            seconds_per_run: 0.0,
            recipe: member.stage.whole_share(),
            computed: None,
        });
        Some(BudgetReport::new(budget, 0.0, true, models.collect()))
    }

    /// What each member costs: the network of the weightiest is run once, the others are taken to be as fast.
    fn loads(
        &self,
        image: &Array3<f32>,
        spacing: [f64; 3],
        observer: &dyn Observer,
    ) -> Result<Vec<Load<'_>>, PipelineError> {
        let weightiest = |a: &&Member<'_>, b: &&Member<'_>| b.weight.total_cmp(&a.weight);
        let Some(tried) = self.members.iter().min_by(weightiest) else { return Ok(Vec::new()) };
        let clock = || observer.time().map_or(Duration::ZERO, |time| time.spent);
        observer.stage("first tile");
        let run = tried.stage.predictor(tried.stage.whole_share(), None)?.time_run(&clock)?;
        let per_flop = run.as_secs_f64() / run_flop(tried.stage.model())?.max(1) as f64;
        let mut loads = Vec::new();
        for member in &self.members {
            let model = member.stage.model();
            let shape = network_shape(model, image, spacing)?;
            let whole = member.stage.whole_share();
            loads.push(Load {
                whole,
                weight: member.weight,
                copies: if whole.mirroring { 1 << model.mirroring_axes.len() } else { 1 },
                tiles: Box::new(move |step| tile_count(model, shape, step)),
                run_seconds: run_flop(model)? as f64 * per_flop,
            });
        }
        Ok(loads)
    }
}

/// Tiles that cover a model's image of this shape, at `step` patches from each other.
fn tile_count(model: &ModelFolder, shape: [usize; 3], step: f64) -> usize {
    Tiling::new(shape, model.configuration.patch_size, step).starts.len()
}

/// `part` times the logits, rounded to float16 if they are to stay float16 values.
fn part_of(mut logits: Logits, part: f32) -> Logits {
    let half = logits.half;
    logits.values.par_mapv_inplace(|v| rounded(v * part, half));
    logits
}

/// `sum` plus `part` times the logits, rounded as [`part_of`] does.
fn with_part(mut sum: Logits, logits: &Logits, part: f32) -> Logits {
    let half = sum.half;
    Zip::from(&mut sum.values).and(&logits.values).par_for_each(|sum, v| {
        *sum = rounded(*sum + rounded(v * part, half), half);
    });
    sum
}

fn rounded(v: f32, half: bool) -> f32 {
    if half { f16::from_f32(v).to_f32() } else { v }
}

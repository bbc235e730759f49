// Generated from openapi.json by build.mjs.
export interface Calibration {
  "temperature"?: number;
  "minConfidence"?: number;
  "maxViewStd"?: number;
  "adaptiveMargin"?: number;
  "maxOodScore"?: number;
  "method"?: string;
  "adaptiveLooks"?: Look[];
  "ruleOut"?: OperatingPoint;
  "ruleIn"?: OperatingPoint;
  "maxScopeScore"?: number;
  "quality"?: QualityLimits;
}
export interface Card {
  "schemaVersion"?: number;
  "model"?: string;
  "classes"?: ClassInfo[];
  "input"?: InputSpec;
  "views"?: string[];
  "parameters"?: string;
  "weightsDigest"?: string;
  "provenance"?: Provenance;
  "calibration"?: Calibration;
  "profile"?: Profile;
}
export interface ClassInfo {
  "code"?: string;
  "name"?: string;
  "malignant"?: boolean;
  "commonName"?: string;
}
export interface ClassScore {
  "code"?: string;
  "name"?: string;
  "probability"?: number;
  "std"?: number;
  "commonName"?: string;
  "malignant"?: boolean;
}
export interface ClassifyResponse {
  "requestId"?: string;
  "model"?: string;
  "version"?: string;
  "classes"?: ClassScore[];
  "verdict"?: Verdict;
  "reasons"?: Reason[];
  "viewsAsked"?: number;
  "viewsUsed"?: number;
  "timings"?: Timings;
  "notice"?: string;
  "malignancy"?: MalignancyRisk;
  "namedClass"?: string;
  "weightsDigest"?: string;
  "gatewayVersion"?: string;
}
export interface Detail {
  "@type"?: string;
  "reason"?: string;
  "domain"?: string;
  "metadata"?: Record<string, string>;
  "retryDelay"?: string;
}
export type Fit = "FIT_UNSPECIFIED" | "FIT_CENTER_CROP";
export interface GetModelResponse {
  "model"?: Model;
}
export interface Histogram {
  "edges"?: number[];
  "shares"?: number[];
  "mean"?: number;
}
export interface InputSpec {
  "height"?: number;
  "width"?: number;
  "fit"?: Fit;
}
export interface ListModelsResponse {
  "models"?: Model[];
}
export interface Look {
  "views"?: number;
  "margin"?: number;
}
export interface MalignancyRisk {
  "level"?: RiskLevel;
  "probability"?: number;
  "std"?: number;
}
export interface Model {
  "name"?: string;
  "versions"?: ModelVersion[];
}
export interface ModelSelector {
  "name"?: string;
  "version"?: string;
  "label"?: string;
}
export interface ModelVersion {
  "version"?: string;
  "state"?: VersionState;
  "labels"?: string[];
  "card"?: Card;
  "ready"?: boolean;
}
export interface OperatingPoint {
  "threshold"?: number;
  "sensitivity"?: Share;
  "specificity"?: Share;
}
export interface Profile {
  "photos"?: string;
  "classShares"?: number[];
  "confidence"?: Histogram;
  "brightness"?: Histogram;
  "sharpness"?: Histogram;
}
export interface Provenance {
  "training"?: Training;
  "initialization"?: string;
  "data"?: string;
  "license"?: string;
  "exportedAt"?: string;
  "exporter"?: string;
  "metrics"?: Record<string, number>;
}
export interface QualityLimits {
  "minBrightness"?: number;
  "maxBrightness"?: number;
  "maxGlare"?: number;
  "minColor"?: number;
  "minDetail"?: number;
  "minContrast"?: number;
  "minRedness"?: number;
  "maxRedness"?: number;
  "minYellowness"?: number;
  "maxYellowness"?: number;
}
export type Reason = "REASON_UNSPECIFIED" | "REASON_UNTRAINED_MODEL" | "REASON_UNCALIBRATED_MODEL" | "REASON_LOW_CONFIDENCE" | "REASON_VIEW_DISAGREEMENT" | "REASON_NOT_SKIN" | "REASON_OUT_OF_SCOPE" | "REASON_TOO_DARK" | "REASON_TOO_BRIGHT" | "REASON_NO_COLOR" | "REASON_BLURRED" | "REASON_UNIFORM";
export type RiskLevel = "RISK_LEVEL_UNSPECIFIED" | "RISK_LEVEL_LOW" | "RISK_LEVEL_INTERMEDIATE" | "RISK_LEVEL_HIGH";
export interface Share {
  "value"?: number;
  "low"?: number;
  "high"?: number;
}
export interface Status {
  "code"?: number;
  "message"?: string;
  "details"?: Detail[];
}
export interface Timings {
  "decodeMs"?: number;
  "planMs"?: number;
  "predictMs"?: number;
  "reduceMs"?: number;
  "totalMs"?: number;
}
export type Training = "TRAINING_UNSPECIFIED" | "TRAINING_NONE" | "TRAINING_TRAINED";
export type TtaMode = "TTA_MODE_UNSPECIFIED" | "TTA_MODE_NONE" | "TTA_MODE_FULL" | "TTA_MODE_ADAPTIVE";
export type Verdict = "VERDICT_UNSPECIFIED" | "VERDICT_CONFIDENT" | "VERDICT_UNCERTAIN" | "VERDICT_REJECTED";
export type VersionState = "VERSION_STATE_UNSPECIFIED" | "VERSION_STATE_START" | "VERSION_STATE_LOADING" | "VERSION_STATE_AVAILABLE" | "VERSION_STATE_UNLOADING" | "VERSION_STATE_END";

// The layers of this library take precedence over the TorchSharp layers with the same names.

global using Conv2d = OpenSora.Models.Layers.Conv2d;
global using Embedding = OpenSora.Models.Layers.Embedding;
global using GroupNorm = OpenSora.Models.Layers.GroupNorm;
global using LayerNorm = OpenSora.Models.Layers.LayerNorm;
global using Linear = OpenSora.Models.Layers.Linear;
global using RMSNorm = OpenSora.Models.Layers.RMSNorm;

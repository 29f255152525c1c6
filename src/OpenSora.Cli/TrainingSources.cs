using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Training.Data;

namespace OpenSora.Cli;

/// <summary>The sources of a training run: clips that are encoded once, and their captions.</summary>
/// <param name="model">The model, which determines the size of clips.</param>
/// <param name="networks">The networks that encode clips and captions.</param>
/// <param name="folder">The folder for encoded clips, which all processes share.</param>
/// <param name="encodes">Whether this process encodes the clips; the others wait until it has.</param>
internal sealed class TrainingSources(ModelFolder model, Networks networks, string folder, bool encodes) : IDisposable
{
    private readonly Dictionary<string, LatentCache> _caches = new(StringComparer.Ordinal);
    private readonly Dictionary<string, ITrainingData> _data = new(StringComparer.Ordinal);

    /// <summary>Gets the data of a source.</summary>
    public ITrainingData this[string name] => _data[name];

    /// <summary>Encodes the clips of a source that were not encoded before. Sources with the same clips share them.</summary>
    public async Task AddAsync(
        string name,
        TrainingSource source,
        IEnumerable<TrainingSource> all,
        Stages stages,
        CancellationToken cancellationToken
    )
    {
        var video = model.Description.Video;
        var frames = all.Where(other => other with { Frames = source.Frames } == source).Max(other => other.Frames ?? video.Frames);
        var clip = new ClipOptions
        {
            Width = source.Width ?? video.Width,
            Height = source.Height ?? video.Height,
            FramesPerSecond = source.FramesPerSecond ?? video.Fps,
            Frames = frames,
        };
        var table = Directory.Exists(source.Path)
            ? VideoTable.FromFolder(source.Path, new VideoReader(), clip)
            : await VideoTable.OpenAsync(source.Path, new VideoReader(), clip).ConfigureAwait(false);
        table = table.PadShortClips();
        var key = LatentCache.KeyOf(table, (TorchSharp.torch.nn.Module)networks.Vae);
        if (!_caches.TryGetValue(key, out var cache))
        {
            var hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(key)))[..16];
            Directory.CreateDirectory(folder);
            var path = Path.Combine(folder, $"latents-{hash}.safetensors");
            while (!encodes && !File.Exists(path))
            {
                // The file has this name when it is complete. If the first process fails, the launcher ends this one.
                await Task.Delay(TimeSpan.FromSeconds(0.2), cancellationToken).ConfigureAwait(false);
            }

            _caches[key] = cache = await LatentCache
                .OpenOrCreateAsync(
                    path,
                    key,
                    table,
                    networks.Vae,
                    progress: new Encoded(stages, name, table.Count),
                    cancellationToken: cancellationToken
                )
                .ConfigureAwait(false);
        }

        _data[name] = cache.AsData(networks.Text, frames: source.Frames ?? video.Frames);
    }

    public void Dispose()
    {
        foreach (var cache in _caches.Values)
        {
            cache.Dispose();
        }
    }

    private sealed class Encoded(Stages stages, string name, int count) : IProgress<int>
    {
        public void Report(int value) => stages.Report($"Encoding {name}", value, count);
    }
}

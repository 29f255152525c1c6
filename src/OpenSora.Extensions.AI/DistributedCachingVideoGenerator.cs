using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.Caching.Distributed;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Runtime;

namespace OpenSora.Extensions.AI;

/// <summary>A generator that stores videos in an <see cref="IDistributedCache"/>, with all pixels unchanged.</summary>
/// <remarks>
/// <para>The key of a request contains everything that determines the pixels: the whole request with the settings that the generator's options and
/// model provide, the description of the model, a sample of its weights, the sampler, the precision and the backend. Parts that an application
/// replaces with code, such as a custom sampler, are not known here: identify them with <see cref="CacheKeyAdditionalValues"/>.</para>
/// <para>A request without a seed asks for a random video, so it is not cached.</para>
/// </remarks>
public class DistributedCachingVideoGenerator : CachingVideoGenerator
{
    private const int FormatVersion = 1;
    private readonly IDistributedCache _cache;
    private readonly Lazy<string> _model;

    /// <summary>Initializes a generator that caches.</summary>
    /// <param name="innerGenerator">The generator of videos that are not stored yet.</param>
    /// <param name="cache">Stores the videos.</param>
    public DistributedCachingVideoGenerator(IVideoGenerator innerGenerator, IDistributedCache cache)
        : base(innerGenerator)
    {
        ArgumentNullException.ThrowIfNull(cache);
        _cache = cache;
        _model = new(DescribeModel, LazyThreadSafetyMode.PublicationOnly);
    }

    /// <summary>Gets or sets values that the key of each request contains, in addition to those that determine the pixels.</summary>
    public IReadOnlyList<string> CacheKeyAdditionalValues { get; set; } = [];

    /// <summary>Gets or sets how long videos are kept. By default, as long as the cache keeps its entries.</summary>
    public DistributedCacheEntryOptions EntryOptions { get; set; } = new();

    /// <inheritdoc/>
    protected override string? GetCacheKey(VideoRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        var complete = InnerGenerator.GetService<GenerationSettings>() is { } defaults ? request.WithDefaults(defaults) : request;
        if (complete.Seed is null)
        {
            return null;
        }

        string[] values = [FormatVersion.ToString(CultureInfo.InvariantCulture), complete.ComputeHash(), _model.Value, .. CacheKeyAdditionalValues];
        return $"opensora:video:{Hash(values)}";
    }

    /// <inheritdoc/>
    protected override async Task<GeneratedVideo?> ReadCacheAsync(string key, CancellationToken cancellationToken)
    {
        var bytes = await _cache.GetAsync(key, cancellationToken).ConfigureAwait(false);
        return bytes is null ? null : StoredVideo.Read(bytes, InnerGenerator.GetService<VideoWriter>());
    }

    /// <inheritdoc/>
    protected override Task WriteCacheAsync(string key, GeneratedVideo video, CancellationToken cancellationToken) =>
        _cache.SetAsync(key, StoredVideo.Write(video), EntryOptions, cancellationToken);

    // Describes what determines the pixels besides the request.
    private string DescribeModel()
    {
        List<string> values = [];
        if (InnerGenerator.GetService<OpenSoraOptions>() is { } options)
        {
            values.Add($"{options.Sampler} {options.Precision}");
        }

        if (InnerGenerator.GetService<IComputeBackend>() is { } backend)
        {
            values.Add(backend.Name);
        }

        if (InnerGenerator.GetService<ModelFolder>() is { } folder)
        {
            values.Add(JsonSerializer.Serialize(folder.Description));
            values.AddRange(
                new[] { folder.Description.Denoiser, folder.Description.Vae, folder.Description.TextEncoder }
                    .SelectMany(part => new[] { part.Weights, part.Tokenizer })
                    .OfType<string>()
                    .SelectMany(file => FilesOf(Path.Combine(folder.Path, file)))
                    .Select(Sample)
            );
        }
        else if (InnerGenerator.GetService<ModelDescription>() is { } description)
        {
            values.Add(JsonSerializer.Serialize(description));
        }

        return Hash(values);
    }

    // The file, or the files beside it if it is the index of a sharded file.
    private static IEnumerable<string> FilesOf(string path) =>
        path.EndsWith(".json", StringComparison.OrdinalIgnoreCase)
            ? Directory.EnumerateFiles(Path.GetDirectoryName(path)!).Order(StringComparer.Ordinal)
            : [path];

    // Hashes the length and 64 blocks of 4 KB at equal distances, which differ if a model was trained further. Whole files can have many gigabytes.
    private static string Sample(string path)
    {
        const int Blocks = 64;
        const int BlockSize = 4096;
        using var file = File.OpenHandle(path);
        var length = RandomAccess.GetLength(file);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var block = new byte[BlockSize];
        var distance = Math.Max((length - BlockSize) / (Blocks - 1), 1);
        for (var i = 0; i < Blocks && i * distance < length; i++)
        {
            hash.AppendData(block, 0, RandomAccess.Read(file, block, i * distance));
        }

        return string.Create(CultureInfo.InvariantCulture, $"{length} {Convert.ToHexStringLower(hash.GetHashAndReset())}");
    }

    private static string Hash(IReadOnlyCollection<string> values) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(JsonSerializer.Serialize(values))));
}

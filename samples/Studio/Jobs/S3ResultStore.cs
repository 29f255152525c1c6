using System.Net;
using Amazon.S3;
using Amazon.S3.Model;
using Microsoft.Extensions.Options;

namespace OpenSora.Studio.Jobs;

/// <summary>A bucket of Amazon S3 or of a store with the same API. Files are written to a folder of this machine and then uploaded; to be served,
/// they are downloaded to it once.</summary>
internal sealed class S3ResultStore(FolderResultStore local, IOptions<StudioOptions> options) : IResultStore, IDisposable
{
    private readonly string _bucket = options.Value.S3Bucket!;
    private readonly AmazonS3Client _client = new(Configure(options.Value));

    public long? FreeBytes => local.FreeBytes;

    public async Task SaveAsync(string name, Func<string, Task> writeAsync, CancellationToken cancellationToken)
    {
        await local.SaveAsync(name, writeAsync, cancellationToken);
        var path = (await local.FindAsync(name, cancellationToken))!;
        var request = new PutObjectRequest
        {
            BucketName = _bucket,
            Key = Key(name),
            FilePath = path,
            UseChunkEncoding = false, // which not all stores support
        };
        await _client.PutObjectAsync(request, cancellationToken);
    }

    public async Task<string?> FindAsync(string name, CancellationToken cancellationToken)
    {
        if (await local.FindAsync(name, cancellationToken) is { } path)
        {
            return path;
        }

        try
        {
            using var file = await _client.GetObjectAsync(_bucket, Key(name), cancellationToken);
            await local.SaveAsync(name, target => DownloadAsync(file, target, cancellationToken), cancellationToken);
            return await local.FindAsync(name, cancellationToken);
        }
        catch (AmazonS3Exception e) when (e.StatusCode == HttpStatusCode.NotFound)
        {
            return null;
        }
    }

    public async Task DeleteAsync(Guid id)
    {
        await local.DeleteAsync(id);
        await _client.DeleteObjectAsync(_bucket, Key($"{id}.mp4"));
        await _client.DeleteObjectAsync(_bucket, Key($"{id}.png"));
    }

    public void Clean(Guid id) => local.Clean(id);

    public void Dispose() => _client.Dispose();

    private static string Key(string name) => $"videos/{name}";

    private static async Task DownloadAsync(GetObjectResponse file, string path, CancellationToken cancellationToken)
    {
        var temporary = $"{path}.{Guid.NewGuid():N}.tmp";
        try
        {
            await using (var target = File.Create(temporary))
            {
                await file.ResponseStream.CopyToAsync(target, cancellationToken);
            }

            File.Move(temporary, path, overwrite: true);
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    // Credentials and region are those of the machine: environment variables, ~/.aws or the role of the instance.
    private static AmazonS3Config Configure(StudioOptions options)
    {
        var config = new AmazonS3Config
        {
            RequestChecksumCalculation = Amazon.Runtime.RequestChecksumCalculation.WHEN_REQUIRED,
            ResponseChecksumValidation = Amazon.Runtime.ResponseChecksumValidation.WHEN_REQUIRED,
        };
        if (options.S3Url is { } url)
        {
            (config.ServiceURL, config.ForcePathStyle) = (url, true);
        }

        return config;
    }
}

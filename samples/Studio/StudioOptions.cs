using System.ComponentModel.DataAnnotations;

namespace OpenSora.Studio;

/// <summary>The section <c>Studio</c> of appsettings.json. An environment variable such as <c>Studio__DataFolder</c> overrides a value.</summary>
internal sealed class StudioOptions
{
    /// <summary>The name of the configuration section.</summary>
    public const string SectionName = "Studio";

    /// <summary>The longest prompt, in characters.</summary>
    public const int MaxPromptLength = 1000;

    /// <summary>Gets or sets the folder of the database and the videos, relative to the current folder. Only one process can use a folder at a
    /// time. With <see cref="Redis"/>, it contains the videos only, and all processes must share it
    /// unless <see cref="S3Bucket"/> is set.</summary>
    [Required]
    public string DataFolder { get; set; } = "studio-data";

    /// <summary>Gets or sets the address of Redis, such as <c>redis:6379</c>, which keeps the jobs of several processes. If it is not set, the jobs
    /// of one process are in an SQLite database.</summary>
    public string? Redis { get; set; }

    /// <summary>Gets or sets the bucket of Amazon S3, or of a store with the same API, for the videos. If it is not set, they are in
    /// <see cref="DataFolder"/>; otherwise this folder is only a cache.</summary>
    public string? S3Bucket { get; set; }

    /// <summary>Gets or sets the address of the store with the bucket, such as <c>http://minio:9000</c>; null for Amazon's.</summary>
    public string? S3Url { get; set; }

    /// <summary>Gets or sets what this process does. A role other than <see cref="StudioRole.Both"/> requires <see cref="Redis"/>.</summary>
    public StudioRole Role { get; set; } = StudioRole.Both;

    /// <summary>Gets or sets how long a worker has a job without a sign of life, in seconds. Then another worker takes the job over.</summary>
    [Range(1, 3600)]
    public int LeaseSeconds { get; set; } = 10;

    /// <summary>Gets or sets the number of jobs that run at the same time in this process.</summary>
    [Range(1, 64)]
    public int Workers { get; set; } = 1;

    /// <summary>Gets or sets the number of waiting and running jobs that one user can have.</summary>
    [Range(1, 1000)]
    public int MaxJobsPerUser { get; set; } = 5;

    /// <summary>Gets or sets the number of waiting and running jobs of all users together.</summary>
    [Range(1, 100_000)]
    public int MaxJobs { get; set; } = 100;

    /// <summary>Gets or sets the number of jobs that one client can submit in a minute.</summary>
    [Range(1, 100_000)]
    public int MaxRequestsPerMinute { get; set; } = 30;

    /// <summary>Gets or sets how often a job is started before it is marked as failed, if the process ends while it runs.</summary>
    [Range(1, 100)]
    public int MaxAttempts { get; set; } = 3;

    /// <summary>Gets or sets the prompts that the page suggests.</summary>
    public IReadOnlyList<string> Examples { get; set; } = [];
}

/// <summary>What a process of the application does.</summary>
internal enum StudioRole
{
    /// <summary>Serves the page and the API, and generates videos.</summary>
    Both,

    /// <summary>Serves the page and the API. It does not load the model.</summary>
    Web,

    /// <summary>Generates videos. It serves the health checks only.</summary>
    Worker,
}

using OpenSora.Preparation.PublicSets.Lists;

namespace OpenSora.Preparation.PublicSets;

/// <summary>A published data set whose list or folder can be read.</summary>
/// <remarks>The lists and videos are not part of this library, and reading a list does not download anything. The terms are facts from the
/// publications, not legal advice; read them at the source before you use a set. The owners of the videos keep their rights in every case.</remarks>
public sealed class PublicSet
{
    private readonly Func<string, Action<PublicSetNotice>, CancellationToken, IAsyncEnumerable<PublicSetEntry>> _read;

    /// <summary>Initializes a custom data set.</summary>
    /// <param name="name">The name.</param>
    /// <param name="terms">The terms of use in one sentence.</param>
    /// <param name="publication">The address at which the set is published.</param>
    /// <param name="read">Reads the list or folder at a path and reports irregularities.</param>
    public PublicSet(
        string name,
        string terms,
        string publication,
        Func<string, Action<PublicSetNotice>, CancellationToken, IAsyncEnumerable<PublicSetEntry>> read
    )
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        ArgumentNullException.ThrowIfNull(read);
        (Name, Terms, Publication, _read) = (name, terms, publication, read);
    }

    /// <summary>Gets HD-VG-130M: clips of YouTube videos with captions. The path is a metadata file such as <c>hdvg_0.json</c>.</summary>
    /// <remarks>
    /// The file is an object of videos: <c>{"VIDEO": {"url", "clip": {"VIDEO.0.mp4": {"span": ["00:00:07.107", "00:00:12.312"], "fps",
    /// "scene_split": [{"clip_id": "VIDEO.0_1", "scene_cut": [first frame, end frame], "caption"}]}}}}</c>. Frames of <c>scene_cut</c> count from
    /// the start of the span; an end of -1 means the whole span. The repository (github.com/daooshee/HD-VG-130M) does not describe the format;
    /// it was verified against public programs that read the file.
    /// </remarks>
    public static PublicSet HdVg130M { get; } =
        new(
            "HD-VG-130M",
            "Academic research only; no commercial use and no distribution of the content.",
            "https://github.com/daooshee/HD-VG-130M",
            HdVgList.ReadAsync
        );

    /// <summary>Gets Panda-70M: clips of YouTube videos with captions. The path is a CSV file such as <c>panda70m_training_2m.csv</c>.</summary>
    /// <remarks>
    /// The columns are <c>videoID, url, timestamp, caption, matching_score</c> and, since October 2024, <c>desirable_filtering</c> and
    /// <c>shot_boundary_detection</c> (github.com/snap-research/Panda-70M, dataset_dataloading/README.md). A row is a video; the columns from
    /// <c>timestamp</c> on are Python lists with one value for each clip, such as <c>[['0:00:06.000', '0:00:54.000']]</c>.
    /// </remarks>
    public static PublicSet Panda70M { get; } =
        new(
            "Panda-70M",
            "Non-commercial research only (Snap Inc.); the license of HD-VILA-100M (Microsoft) applies to the videos.",
            "https://github.com/snap-research/Panda-70M",
            PandaList.ReadAsync
        );

    /// <summary>Gets WebVid-10M (and 2M): stock videos with captions. The path is a CSV file such as <c>results_10M_train.csv</c>.</summary>
    /// <remarks>
    /// The columns are <c>videoid, contentUrl, duration, page_dir, name</c>, of which <c>name</c> is the caption (github.com/m-bain/webvid,
    /// download.py, and github.com/m-bain/frozen-in-time, WebVid_dataset.py). Rows without a caption or page are known; they are reported.
    /// </remarks>
    public static PublicSet WebVid10M { get; } =
        new(
            "WebVid-10M",
            "Non-commercial research only, for 12 months (University of Oxford). The authors have not distributed the list since February 2024 at "
                + "the request of the owner of the videos (Shutterstock).",
            "https://github.com/m-bain/webvid",
            WebVidList.ReadAsync
        );

    /// <summary>Gets MSR-VTT: 10,000 clips of YouTube videos with 20 captions each. The path is a JSON file such as
    /// <c>train_val_videodatainfo.json</c>.</summary>
    /// <remarks>
    /// The file has <c>videos</c> (<c>video_id, category, url, "start time", "end time", split</c>) and <c>sentences</c> (<c>sen_id, video_id,
    /// caption</c>), as the readme of the data set says. The COCO variant <c>MSR_VTT.json</c>, which frozen-in-time reads (<c>annotations</c> with
    /// <c>image_id</c> and <c>caption</c>), has no addresses: its videos are files <c>videos/all/ID.mp4</c> beside the folder of the file or
    /// below it. An entry is a video with all captions.
    /// </remarks>
    public static PublicSet MsrVtt { get; } =
        new(
            "MSR-VTT",
            "Published by Microsoft Research for research; the videos are from YouTube, and their owners keep the rights.",
            "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/",
            MsrVttList.ReadAsync
        );

    /// <summary>Gets UCF-101: 13,320 clips of 101 actions. The path is the folder of the videos, or a list such as <c>trainlist01.txt</c>.</summary>
    /// <remarks>
    /// The folder has a folder for each class, such as <c>ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi</c>. A line of a list is such a path and,
    /// in training lists, the number of the class in <c>classInd.txt</c>. Paths of a list are relative to its folder, or to a folder
    /// <c>UCF-101</c> or <c>videos</c> beside or above it. The caption is the class in words ("Apply Eye Makeup"), as in Open-Sora's convert_dataset.py.
    /// </remarks>
    public static PublicSet Ucf101 { get; } =
        new(
            "UCF-101",
            "Published by the University of Central Florida for research; the videos are from YouTube, and their owners keep the rights.",
            "https://www.crcv.ucf.edu/data/UCF101.php",
            Ucf101Folder.ReadAsync
        );

    /// <summary>Gets ImageNet (ILSVRC 2012): images of 1000 classes. The path is the folder of a split, such as <c>train</c> or
    /// <c>val</c>.</summary>
    /// <remarks>
    /// The folder has a folder for each class (<c>n01440764/n01440764_10026.JPEG</c>), as torchvision's ImageNet expects it, or it is the flat
    /// folder <c>val</c> of the Kaggle archive, whose classes are in <c>LOC_val_solution.csv</c>. The caption is the first name in
    /// <c>LOC_synset_mapping.txt</c> ("n01440764 tench, Tinca tinca"). Both files are found in the folder or in one of the four above it.
    /// </remarks>
    public static PublicSet ImageNet { get; } =
        new(
            "ImageNet",
            "Non-commercial research and education only; the owners of the images keep the rights.",
            "https://www.image-net.org/download.php",
            ImageNetFolder.ReadAsync
        );

    /// <summary>Gets the known data sets.</summary>
    public static IReadOnlyList<PublicSet> All { get; } = [HdVg130M, Panda70M, WebVid10M, MsrVtt, Ucf101, ImageNet];

    /// <summary>Gets the name, such as <c>Panda-70M</c>.</summary>
    public string Name { get; }

    /// <summary>Gets the terms of use in one sentence.</summary>
    public string Terms { get; }

    /// <summary>Gets the address at which the set is published.</summary>
    public string Publication { get; }

    /// <summary>Finds a known data set by its name. Case, hyphens and spaces do not matter.</summary>
    /// <param name="name">The name, such as <c>panda70m</c>.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static PublicSet Find(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return All.FirstOrDefault(set => Plain(set.Name).Equals(Plain(name), StringComparison.OrdinalIgnoreCase))
            ?? throw new ArgumentException(
                $"The data set '{name}' is not known. Known data sets: {string.Join(", ", All.Select(set => set.Name))}.",
                nameof(name)
            );

        static string Plain(string text) => string.Concat(text.Where(char.IsLetterOrDigit));
    }

    /// <summary>Reads the entries one by one with bounded memory.</summary>
    /// <param name="path">The path of the list or folder.</param>
    /// <param name="report">Receives irregularities that are known and do not stop reading.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="PreparationException">The list is invalid; the message has the file and the line.</exception>
    /// <exception cref="FileNotFoundException">The list, or a file that it needs, does not exist.</exception>
    public IAsyncEnumerable<PublicSetEntry> ReadAsync(
        string path,
        Action<PublicSetNotice>? report = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return File.Exists(path) || Directory.Exists(path)
            ? _read(path, report ?? (_ => { }), cancellationToken)
            : throw new FileNotFoundException($"'{path}' does not exist. Specify the list or folder of {Name} ({Publication}).", path);
    }
}
